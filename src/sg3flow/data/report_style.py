"""The look of the validation report: follows the reader's light or dark setting."""

STYLE = """
:root { color-scheme: light dark; --bg: #f6f7f9; --card: #fff; --ink: #1b2330; --soft: #647084;
  --line: #e2e6ec; --good: #1a7f4b; --warn: #a86400; --bad: #c4314b; --bar: #4c78dd; }
@media (prefers-color-scheme: dark) { :root { --bg: #12161d; --card: #1b212b; --ink: #e6eaf1;
  --soft: #95a1b3; --line: #2c3441; --good: #4cc38a; --warn: #e5a54b; --bad: #ff7b8e;
  --bar: #7aa2f7; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--bg); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 28px 20px 60px; }
header { border-left: 6px solid var(--good); padding: 2px 0 2px 18px; margin-bottom: 24px; }
header.failed { border-color: var(--bad); }
h1 { margin: 0; font-size: 30px; letter-spacing: -.01em; }
h2 { margin: 0 0 6px; font-size: 18px; }
h3 { margin: 0 0 6px; font-size: 14px; color: var(--soft); font-weight: 600; }
.kicker { margin: 0; color: var(--soft); text-transform: uppercase; font-size: 12px;
  letter-spacing: .08em; }
.verdict { margin: 6px 0 0; }
.badge { display: inline-block; padding: 1px 9px; border-radius: 99px; font-size: 12px;
  font-weight: 600; border: 1px solid currentColor; vertical-align: 1px; color: var(--good); }
.badge.warning { color: var(--warn); }
.badge.failed, .badge.error { color: var(--bad); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px;
  margin-bottom: 18px; }
.tile, .card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; }
.tile { padding: 12px 14px; display: flex; flex-direction: column; min-width: 0; }
.tile span, .tile small, .meta { color: var(--soft); font-size: 13px; }
.tile strong { font-size: 17px; overflow-wrap: anywhere; }
.card { padding: 16px 18px; margin-bottom: 16px; }
.card { overflow: hidden; }
.card.failed, .card.error { box-shadow: inset 4px 0 var(--bad); }
.card.warning { box-shadow: inset 4px 0 var(--warn); }
nav ul { list-style: none; margin: 0; padding: 0; }
nav a { color: inherit; text-decoration: none; display: block; padding: 3px 0; }
nav a:hover, nav a:focus-visible { text-decoration: underline; }
.meta { margin: 0 0 10px; }
code { font: 12px ui-monospace, Consolas, monospace; color: var(--soft); }
.pictures { display: flex; flex-wrap: wrap; gap: 14px; margin: 4px 0 10px; }
figure { margin: 0; max-width: 236px; }
.pair { display: flex; gap: 4px; }
.pair img, .missing { height: 112px; min-width: 60px; border-radius: 8px; display: block;
  border: 1px solid var(--line); }
.missing { width: 112px; display: grid; place-items: center; color: var(--soft); font-size: 12px; }
figcaption { font-size: 12px; color: var(--soft); overflow-wrap: anywhere; margin-top: 4px; }
figcaption em { display: block; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th { text-align: left; color: var(--soft); font-weight: 600; font-size: 12px; }
th, td { padding: 6px 12px 6px 0; border-bottom: 1px solid var(--line); vertical-align: top;
  overflow-wrap: anywhere; }
tr:last-child td { border-bottom: 0; }
.checks td:first-child { width: 92px; }
.checks td:last-child { width: 30%; }
.scroll { overflow-x: auto; }
.wide table { min-width: 640px; }
.wide td:nth-child(3) { white-space: nowrap; width: 1%; }
summary { cursor: pointer; color: var(--soft); font-size: 13px; }
.bar { display: grid; grid-template-columns: minmax(70px, 160px) 1fr 70px; gap: 12px;
  align-items: center; padding: 3px 0; }
.bar span { overflow-wrap: anywhere; }
.bar div { background: var(--line); border-radius: 6px; height: 12px; overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--bar); border-radius: 6px; }
.spreads { display: grid; grid-template-columns: repeat(auto-fit, minmax(280px, 1fr)); gap: 24px; }
svg { width: 100%; height: auto; }
svg rect { fill: var(--bar); }
svg line { stroke: var(--line); }
"""
