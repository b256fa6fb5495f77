"""Figures of average power spectra: heat maps with contour lines, and slices."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sg3flow.metrics.spectra_run import Series

SOFTWARE = "sg3flow"  # in the PNG, by which it is recognized
_PANEL_INCHES, _SLICES_INCHES, _DPI = 3.2, (7.2, 3.6), 100
_COLUMNS = 4
_STEP_DB = 10  # between contour lines
_REALS, _COLORS = "#202020", ("#2b8cc4", "#c2410c", "#2f855a", "#7c3aed", "#b7791f", "#be185d")
_EDGES = (-0.5, 0.5)


def heat_map(series: "Sequence[Series]") -> bytes:
    """One map per spectrum on one scale of colors, as PNG."""
    columns = min(len(series), _COLUMNS)
    rows = -(-len(series) // columns)
    figure = _figure((_PANEL_INCHES * columns + 0.9, _PANEL_INCHES * rows + 0.3))
    maps = [each.spectrum.full_decibels() for each in series]
    low = max(min(float(each.min()) for each in maps), -60.0)
    high = max(max(float(each.max()) for each in maps), low + _STEP_DB)
    levels = np.arange(np.ceil(low / _STEP_DB), high / _STEP_DB + 1) * _STEP_DB
    panels = []
    for number, (each, values) in enumerate(zip(series, maps, strict=True), 1):
        axes = figure.add_subplot(rows, columns, number)
        extent = (*_EDGES, *_EDGES)
        axes.imshow(values, "magma", extent=extent, origin="lower", vmin=low, vmax=high)
        if values.max() > values.min():
            axes.contour(values, levels, extent=extent, colors="white", linewidths=0.5, alpha=0.6)
        axes.set_title(each.name, fontsize=9)
        axes.set_xticks([-0.5, 0, 0.5])
        axes.set_yticks([-0.5, 0, 0.5])
        axes.tick_params(labelsize=8)
        panels.append(axes)
    bar = figure.colorbar(panels[0].images[0], ax=panels, fraction=0.05)
    bar.set_label("power in dB; frequencies in cycles per pixel", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    return _png(figure)


def slices_chart(series: "Sequence[Series]") -> bytes:
    """Power against frequency, along a row and along a diagonal, as PNG."""
    figure = _figure(_SLICES_INCHES)
    for number, title in ((1, "horizontal"), (2, "diagonal")):
        axes = figure.add_subplot(1, 2, number)
        for index, each in enumerate(series):
            is_first = each.name == series[0].name
            frequencies, *lines = each.spectrum.slices()
            color = _REALS if is_first else _COLORS[(index - 1) % len(_COLORS)]
            axes.plot(frequencies, lines[number - 1], color=color, lw=1.3, label=each.name)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("cycles per pixel", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(color="#80808040", lw=0.8)
        if number == 1:
            axes.set_ylabel("power in dB", fontsize=8)
            axes.legend(fontsize=8, frameon=False)
    return _png(figure)


def _figure(size: tuple[float, float]) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: "Figure") -> bytes:
    stream, metadata = io.BytesIO(), {"Software": SOFTWARE}
    settings: dict[str, Any] = {"format": "png", "dpi": _DPI, "metadata": metadata}
    figure.savefig(stream, **settings)
    return stream.getvalue()
