"""Charts as inline SVG: drawn by matplotlib, coloured by the page's CSS variables, so that light and dark both read.

Every chart is a function of the tables of `metrics/`; text stays text, and lines differ by dashes too, not by colour
alone. A chart whose table is empty is None.
"""

import io
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ssdh.core.arrays import Float64

# Stand-ins that the SVG is drawn with; each becomes the CSS variable of that name.
INK, MUTED, RULE = "#010101", "#020202", "#030303"
ACCENT, SIMILAR, DISSIMILAR, FILL = "#040404", "#050505", "#060606", "#070707"
LINE_A, LINE_B, LINE_C = "#080808", "#090909", "#0a0a0a"

VARIABLES = {
    INK: "--ink", MUTED: "--muted", RULE: "--rule", ACCENT: "--accent", SIMILAR: "--similar",
    DISSIMILAR: "--dissimilar", FILL: "--fill", LINE_A: "--line-a", LINE_B: "--line-b", LINE_C: "--line-c",
}  # fmt: skip

SOLID: Any = "-"

STYLES: dict[str, tuple[str, Any, float]] = {  # colour, dashes, width of a method's line
    "ssdh": (ACCENT, SOLID, 2.2),
    "float": (MUTED, (0, (1, 1.6)), 1.5),
    "other_0": (LINE_A, (0, (6, 2)), 1.5),
    "other_1": (LINE_B, (0, (3, 1.5, 1, 1.5)), 1.5),
    "other_2": (LINE_C, (0, (3, 2)), 1.5),
}

WIDTH, HEIGHT, TOP = 4.7, 2.9, 0.3  # inches; 338 points wide, so that text keeps its size on a phone of 390 pixels
MOST_BINS = 160


@dataclass(frozen=True)
class Line:
    """One line of a chart: its method (a key of STYLES), its name in the legend, and its points (n,)."""

    method: str
    name: str
    x: Float64
    y: Float64


def plain_style() -> AbstractContextManager[Any]:
    """matplotlib's own style for the body, whatever a person's matplotlibrc says."""
    return style.context("default")


def distance_histogram(
    distance: Float64, density: Float64, fit: Float64, *, mode: float, similar: float, dissimilar: float
) -> str | None:
    """Density of the pair distances with both half Gaussians, the mode and the two thresholds."""
    if len(distance) < 2:
        return None
    figure, axes = _axes(height=3.2, left=0.02)
    edges, bars = coarser(distance, density)
    centres = (edges[:-1] + edges[1:]) / 2
    for low, high, colour in (
        (-np.inf, similar, SIMILAR),
        (similar, dissimilar, FILL),
        (dissimilar, np.inf, DISSIMILAR),
    ):
        inside = (centres > low) & (centres <= high)
        axes.stairs(np.where(inside, bars, 0), edges, fill=True, color=colour, linewidth=0)
    for half in (distance <= mode, distance > mode):
        axes.plot(distance[half], fit[half], color=INK, linewidth=1.4)
    top = float(max(bars.max(), fit.max())) * 1.3
    axes.set_ylim(0, top)
    axes.set_xlim(edges[0], edges[-1])
    for x, text, colour, side in (
        (similar, f"similar < {similar:.3g}", SIMILAR, "right"),
        (dissimilar, f"dissimilar > {dissimilar:.3g}", DISSIMILAR, "left"),
    ):
        axes.axvline(x, color=colour, linewidth=1.3)
        _beside(axes, x, top, text, colour, side)
    axes.axvline(mode, ymax=1 / 1.3, color=MUTED, linewidth=0.8, linestyle=(0, (2, 2)))
    axes.annotate(
        f"mode {mode:.3g}", (mode, top / 1.3), (0, 4), textcoords="offset points", ha="center", color=MUTED, fontsize=9
    )
    axes.set_xlabel("cosine distance of a training pair")
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    return _svg(figure, "distances")


def coarser(centres: Float64, density: Float64) -> tuple[Float64, Float64]:
    """A histogram of at most MOST_BINS bins with the same area: edges (b + 1,) and densities (b,).

    centres: (n,) of equal bins, n of at least 2; density: (n,).
    """
    width = centres[1] - centres[0]
    first = np.arange(0, len(density), -(-len(density) // MOST_BINS))
    edges = np.append(centres[first] - width / 2, centres[-1] + width / 2)
    return edges, np.add.reduceat(density, first) * width / np.diff(edges)


def lines(
    name: str,
    series: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    percent: bool = True,
    from_zero: bool = True,
    marker: bool = False,
) -> str | None:
    """A chart of lines, named by a legend where there are several; None where no line has a point."""
    series = [line for line in map(_finite, series) if len(line.x)]
    if not series:
        return None
    figure, axes = _axes()
    for line in reversed(series):  # the first on top
        colour, dashes, width = STYLES.get(line.method, STYLES["ssdh"])
        shown = "o" if marker or len(line.x) == 1 else None
        axes.plot(
            line.x,
            line.y,
            color=colour,
            linestyle=dashes,
            linewidth=width,
            marker=shown,
            markersize=3.5,
            label=line.name,
        )
    if from_zero:
        axes.set_ylim(0, 1.06 * max(float(line.y.max()) for line in series) or 1)
    if percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    whole = all(np.array_equal(line.x, line.x.round()) for line in series)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=whole))
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.set_xlabel(x_label)
    axes.set_title(y_label, loc="left", color=MUTED, fontsize=9.5, pad=8)
    if len(series) > 1:
        _legend(axes, series)
    return _svg(figure, name)


def bit_balance(shares: Float64) -> str | None:
    """Share of +1 of each bit over the database, around the even half."""
    if not len(shares):
        return None
    figure, axes = _axes(height=2.2)
    edges = np.arange(len(shares) + 1) + 0.5
    axes.stairs(shares, edges, baseline=0.5, fill=True, color=ACCENT, linewidth=0)
    axes.axhline(0.5, color=INK, linewidth=0.8)
    axes.set_ylim(0, 1)
    axes.set_xlim(edges[0], edges[-1])
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.xaxis.set_major_locator(MaxNLocator(min(8, len(shares)), integer=True))
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.set_xlabel("bit")
    axes.set_title("share of +1 in the database", loc="left", color=MUTED, fontsize=9.5, pad=8)
    return _svg(figure, "bits")


def _axes(height: float = HEIGHT, left: float = 0.115) -> tuple[Figure, Axes]:
    with mpl.rc_context({"font.size": 9.5, "axes.edgecolor": MUTED, "axes.labelcolor": MUTED}):
        figure = Figure(figsize=(WIDTH, height))
        axes = figure.add_axes((left, 0.48 / height, 0.985 - left, 1 - (0.48 + TOP) / height))
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.spines["left"].set_visible(False)
    axes.tick_params(colors=MUTED, labelsize=9, length=0)
    axes.patch.set_visible(False)
    figure.patch.set_visible(False)
    return figure, axes


def _beside(axes: Axes, x: float, y: float, text: str, colour: str, side: str) -> None:
    """Text at the top of a vertical line, on the given side, or on the other one where there is no room."""
    low, high = axes.get_xlim()
    share = (x - low) / (high - low)
    if side == "right" and share < 0.22:
        side = "left"
    elif side == "left" and share > 0.78:
        side = "right"
    axes.annotate(
        text, (x, y), (-5 if side == "right" else 5, -2), textcoords="offset points",
        ha=side, va="top", color=colour, fontsize=9,
    )  # fmt: skip


def _legend(axes: Axes, series: Sequence[Line]) -> None:
    """Name the lines where there is room, in the order in which they stand, highest first."""
    heights = {line.name: float(line.y.mean()) for line in series}
    handles, names = axes.get_legend_handles_labels()
    order = sorted(range(len(names)), key=lambda i: -heights[names[i]])
    legend = axes.legend(
        [handles[i] for i in order], [names[i] for i in order], frameon=False, fontsize=9, handlelength=2.6,
        labelspacing=0.35, borderaxespad=0.2, labelcolor="linecolor",
    )  # fmt: skip
    for entry in legend.get_texts():
        if entry.get_text() == series[0].name:
            entry.set_fontweight("bold")


def _finite(line: Line) -> Line:
    keep = np.isfinite(line.x) & np.isfinite(line.y)
    return Line(line.method, line.name, line.x[keep], line.y[keep])


def _svg(figure: Figure, name: str) -> str:
    """The figure as an `<svg>` element for a page: variables for colours, the page's font, ids of its own."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->\s*|<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"|\sversion="[^"]*"', "", text)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>\s*|font-family: [^;\"]*;? ?", "", text, flags=re.DOTALL)
    text = re.sub(r'="[^"]*\d\.\d{3}[^"]*"', lambda attribute: re.sub(r"(\.\d\d)\d+", r"\1", attribute[0]), text)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(url\(|href=")#', rf"\1#{name}-", text)
    for stand_in, variable in VARIABLES.items():
        text = text.replace(stand_in, f"var({variable})")
    return text.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1).strip()
