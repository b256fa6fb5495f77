"""Draw docs/images/architecture.svg from dvc.yaml and the layers in pyproject.toml.

    python docs/draw_architecture.py           # write the picture
    python docs/draw_architecture.py --check   # exit 1 if the picture is out of date

The layer names and their order come from the import-linter contract, the stages from dvc.yaml. A
layer without a description in LAYER_TEXT is an error, and so is a description without a layer.
"""

import argparse
import sys
import tomllib
from html import escape
from pathlib import Path

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "images" / "architecture.svg"

# What each layer is for. Single modules that any layer may use share the last row.
LAYER_TEXT = {
    "cli": "the stages and the sg3flow command",
    "reports": "HTML pages and charts for people",
    "compare": "runs read from anywhere, compared",
    "registry": "versions, aliases, the gate",
    "serving": "HTTP server of a model",
    "explorer": "a network in the browser",
    "tracking": "outbox, uploader, MLflow client",
    "export": "ONNX, TorchScript and other formats",
    "latent": "projection, directions, blending",
    "rendering": "images, grids, videos",
    "training": "losses, step, loop, exact resume",
    "metrics": "features, FID, KID, equivariance, …",
    "runs": "run folder, code digests, provenance, reproduction",
    "checkpoints": "snapshots, public pickles (read, never run)",
    "data": "fetch, pack, validate, dataset, sampler",
    "networks": "StyleGAN3-T and -R, StyleGAN2, discriminator, augmentation",
    "ops": "upfirdn2d, filtered_lrelu, bias_act; kernel or pure PyTorch",
    "kernels": "how the C++ (cpu/) and CUDA (cuda/) sources are built",
}
BASE = {
    "downloads",
    "transfers",
    "resources",
    "device",
    "precision",
    "distributed",
    "git",
    "params_schema",
    "params_file",
    "yaml_text",
    "config",
    "files",
    "output_checks",
    "progress",
    "durations",
    "interrupts",
    "addresses",
    "settings",
    "errors",
}
ENTRY_POINT = "__main__"  # `python -m sg3flow`, part of the command line

OUTPUTS = {
    "fetch": "data/raw",
    "pack": "packed.zip",
    "validate": "validation.json",
    "train": "runs/train",
    "evaluate": "evaluation.json",
    "render": "renders",
    "register": "registered.json",
}
FLOW = [
    ("stage", ["reports to its run folder only;", "never waits for MLflow"]),
    (
        "run folder",
        ["run.json, stats.jsonl, snapshots, files:", "the record of the run, below state/"],
    ),
    ("outbox", ["events.jsonl: one line per metric,", "image, file and snapshot"]),
    ("uploader", ["a second process, or sg3flow sync;", "its offset is in state/sent/"]),
    ("MLflow", ["runs, snapshots as models,", "registry: candidate, champion"]),
]

WIDTH, ROW, GAP, TOP = 960, 32, 5, 172
LEFT, LEFT_WIDTH = 24, 590
RIGHT, RIGHT_WIDTH = 650, 286
GREEN, BLUE, ORANGE, GRAY = (
    ("#eaf4ea", "#3c7a3c"),
    ("#f3f6fb", "#3b5b8c"),
    ("#fff6e5", "#9a6b00"),
    ("#f4f4f4", "#777777"),
)
STYLE = (
    'text{font-family:system-ui,-apple-system,"Segoe UI",sans-serif;fill:#1b1b1b} '
    ".t{font-size:14px;font-weight:600} .s{font-size:12.5px;fill:#444} "
    ".h{font-size:13px;fill:#666} .m{text-anchor:middle}"
)
MARKER = (
    '<defs><marker id="a" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
    'orient="auto"><path d="M0 0L10 5L0 10z" fill="#555"/></marker></defs>'
)


def read_layers() -> list[list[str]]:
    """The layers of the contract from top to bottom; packages of one layer share a list."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = settings["tool"]["importlinter"]["contracts"]
    layers = next(c["layers"] for c in contracts if c["id"] == "layers")
    return [[name.strip() for name in layer.split(":")] for layer in layers]


def read_stages() -> list[str]:
    """The names of the stages of dvc.yaml, in order."""
    return list(YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"])


def draw() -> str:
    """The picture as SVG text.

    Raises:
        SystemExit: the contract or dvc.yaml and the descriptions of this script differ.
    """
    layers, stages = read_layers(), read_stages()
    drawn = {*LAYER_TEXT, *BASE, ENTRY_POINT}
    _require_equal("layers", {name for layer in layers for name in layer}, drawn)
    _require_equal("stages", set(stages), {"code", *OUTPUTS})
    rows = [layer for layer in layers if not set(layer) & {*BASE, ENTRY_POINT}]
    height = TOP + len(rows) * (ROW + GAP) + 58 + 20
    label = (
        "the stages of dvc.yaml on top; the layers of the package below them, from cli to kernels; "
        "beside them the way from a stage over its run folder, outbox and uploader to MLflow"
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{label}">',
        MARKER,
        f"<style>{STYLE}</style>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        *_draw_stages([name for name in stages if name != "code"]),
        *_draw_layers(rows),
        *_draw_flow(TOP, TOP + len(rows) * (ROW + GAP) + 58),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _require_equal(what: str, found: set[str], described: set[str]) -> None:
    if found != described:
        raise SystemExit(
            f"error: docs/draw_architecture.py does not match the {what}: "
            f"missing {sorted(found - described)}, unknown {sorted(described - found)}"
        )


def _draw_stages(stages: list[str]) -> list[str]:
    parts = [
        _text(
            LEFT,
            22,
            "dvc.yaml: each stage runs when its inputs, its settings or its code digests change",
            "h",
        ),
        _box(LEFT, 32, WIDTH - 2 * LEFT, 26, GRAY),
        _text(
            WIDTH / 2,
            50,
            "code: digests of the source files that decide each stage's outputs",
            "s m",
        ),
    ]
    step = (WIDTH - 2 * LEFT + 16) / len(stages)
    for i, name in enumerate(stages):
        x, width = LEFT + i * step, step - 16
        middle = x + width / 2
        parts += [
            _arrow(middle, 58, middle, 74),
            _box(x, 76, width, 48, GREEN),
            _text(middle, 95, name, "t m"),
            _text(middle, 113, OUTPUTS[name], "s m"),
        ]
        if i:
            parts.append(_arrow(x - 16, 100, x - 1, 100))
    return parts


def _draw_layers(rows: list[list[str]]) -> list[str]:
    parts = [_text(LEFT, TOP - 12, "src/sg3flow: each layer imports only layers below it", "h")]
    y = TOP
    for row in rows:
        width = (LEFT_WIDTH - GAP * (len(row) - 1)) / len(row)
        for i, name in enumerate(row):
            x = LEFT + i * (width + GAP)
            description = f'<tspan class="s" dx="8">{escape(LAYER_TEXT[name])}</tspan>'
            parts += [
                _box(x, y, width, ROW, BLUE),
                f'<text x="{x + 10:.0f}" y="{y + 21}"><tspan class="t">{name}</tspan>'
                f"{description}</text>",
            ]
        y += ROW + GAP
    base = sorted(BASE)
    parts += [
        _box(LEFT, y, LEFT_WIDTH, 58, GRAY),
        _text(LEFT + 10, y + 19, "single modules that any layer may use", "s"),
        _text(LEFT + 10, y + 35, ", ".join(base[: len(base) // 2]) + ",", "s"),
        _text(LEFT + 10, y + 51, ", ".join(base[len(base) // 2 :]), "s"),
    ]
    return parts


def _draw_flow(top: int, bottom: int) -> list[str]:
    parts = [_text(RIGHT, top - 12, "tracking: how results reach MLflow", "h")]
    gap = 30
    height = (bottom - top - gap * (len(FLOW) - 1)) / len(FLOW)
    middle = RIGHT + RIGHT_WIDTH / 2
    for i, (name, lines) in enumerate(FLOW):
        y = top + i * (height + gap)
        start = y + height / 2 - 14
        parts += [
            _box(RIGHT, y, RIGHT_WIDTH, height, ORANGE),
            _text(middle, start, name, "t m"),
            *(_text(middle, start + 20 + 17 * k, line, "s m") for k, line in enumerate(lines)),
        ]
        if i:
            parts.append(_arrow(middle, y - gap, middle, y - 1))
    return parts


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" class="{kind}">{escape(text)}</text>'


def _box(x: float, y: float, width: float, height: float, colors: tuple[str, str]) -> str:
    fill, stroke = colors
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="6" '
        f'fill="{fill}" stroke="{stroke}" stroke-width="1.3"/>'
    )


def _arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#555" '
        'stroke-width="1.5" marker-end="url(#a)"/>'
    )


def main() -> int:
    """Write or check the picture; returns the exit status."""
    parser = argparse.ArgumentParser(description="Draw the picture of docs/architecture.md.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if out of date")
    arguments = parser.parse_args()
    picture = draw()
    if not arguments.check:
        PICTURE.write_text(picture, encoding="utf-8")
    elif PICTURE.read_text(encoding="utf-8") != picture:
        print(f"error: {PICTURE} is out of date; run python {__file__}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
