"""The look of a comparison: that of the validation report, and a colour and dash for each run.

The colours are those of Okabe and Ito (2008), which people with any colour vision tell apart,
darkened or lightened until each has a contrast of 3:1 or more with the card it is drawn on. Runs
that share a hue have another dash, and every line ends in its run's letter.
"""

from sg3flow.data.report_style import STYLE as REPORT_STYLE

# blue, vermilion, green, purple, brown-orange, sky blue, ink
LIGHT = ("#0072b2", "#d55e00", "#007a5c", "#b65890", "#96690a", "#2b8cc4", "#1b2330")
DARK = ("#4aa8e8", "#ff8a3d", "#2fc295", "#e08fbd", "#e6b04a", "#8fd0f5", "#e6eaf1")
DASHES = ("", "7 4", "2 3")
MOST_RUNS = len(LIGHT) * len(DASHES)


def _variables(colours: tuple[str, ...]) -> str:
    return " ".join(f"--r{index}: {colour};" for index, colour in enumerate(colours))


def _run_rules(index: int) -> str:
    colour = f"var(--r{index % len(LIGHT)})"
    dash = DASHES[index // len(LIGHT)]
    dashed = f" .r{index} polyline {{ stroke-dasharray: {dash}; }}" if dash else ""
    return f".r{index}, .tag.t{index}, .letter.t{index} {{ color: {colour}; }}{dashed}"


_RULES = """
main { max-width: 1200px; }
header { border-color: var(--bar); }
small { display: block; color: var(--soft); font-size: 12px; font-weight: 400; }
.soft { color: var(--soft); }
.badge { white-space: nowrap; }
.badge.noise { color: var(--soft); }
.tiles.runs { grid-template-columns: repeat(auto-fit, minmax(210px, 1fr)); }
.tiles.runs strong { font-size: 16px; line-height: 1.3; margin: 2px 0; }
.tile code { overflow-wrap: anywhere; }
.tile .note { color: var(--warn); }
.tag { font-weight: 700; font-size: 15px; display: inline-flex; flex-direction: row;
  align-items: center; gap: 6px; width: max-content; }
.tile .tag { font-size: 15px; }
.tag svg { width: 30px; height: 6px; }
svg polyline { fill: none; stroke: currentColor; stroke-width: 2; stroke-linejoin: round; }
svg polygon { fill: currentColor; opacity: .13; }
svg path { fill: none; stroke: currentColor; stroke-width: 1.3; }
svg circle { fill: currentColor; }
svg .axis, svg .tick { stroke: var(--soft); }
svg text { fill: var(--soft); font: 12px system-ui, "Segoe UI", Arial, sans-serif; }
svg .end { text-anchor: end; } svg .mid { text-anchor: middle; } svg .name { font-weight: 600; }
svg .letter { fill: currentColor; font-weight: 700; }
.wide td, .wide th { min-width: 108px; padding-right: 16px; overflow-wrap: break-word; }
.wide td { font-variant-numeric: tabular-nums; }
.wide td:first-child, .wide th:first-child { min-width: 130px; position: sticky; left: 0;
  background: var(--card); }
.legend { display: flex; flex-wrap: wrap; gap: 4px 20px; margin: 4px 0 14px; font-size: 13px; }
.legend > span { display: inline-flex; align-items: center; gap: 6px; overflow-wrap: anywhere; }
.plots { display: grid; gap: 26px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); }
figure.plot { max-width: none; min-width: 0; }
.plot figcaption { font-size: 14px; font-weight: 600; color: var(--ink); margin: 0 0 6px; }
.plot .meta { margin: 4px 0 0; }
.samples { width: auto; }
.samples th, .samples td { border: 0; padding: 0 6px 10px 0; text-align: center; }
.samples th { position: sticky; left: 0; background: var(--card); text-align: left;
  vertical-align: middle; padding-right: 14px; }
.samples .why { color: var(--warn); text-align: left; vertical-align: middle; max-width: 640px; }
.samples img { width: 128px; height: 128px; border-radius: 6px; display: block; object-fit: cover; }
.samples .pixels { image-rendering: pixelated; }
@media (max-width: 560px) { main { padding: 16px 10px 40px; } .card { padding: 12px; }
  .samples img { width: 92px; height: 92px; } h1 { font-size: 24px; } }
"""

STYLE = (
    f"{REPORT_STYLE}\n:root {{ {_variables(LIGHT)} }}\n"
    f"@media (prefers-color-scheme: dark) {{ :root {{ {_variables(DARK)} }} }}\n{_RULES}"
    + "\n".join(map(_run_rules, range(MOST_RUNS)))
)
