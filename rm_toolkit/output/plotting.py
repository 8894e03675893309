"""The look of every figure: size, fonts, colors that color-blind readers can distinguish, and small grids."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# Okabe and Ito's colors (https://jfly.uni-koeln.de/color/), those with enough contrast on white first.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
BLUE, VERMILLION = COLORS[:2]
GRAY = "#6E6E6E"
# Besides color, lines differ in marker and dash, and bars in hatching, so that a gray print shows them too.
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":")
MAP = "cividis"

WIDTH = 8.0  # inches; sharp at 150 dots per inch, and legible at 800 pixels wide
DPI = 150
STYLE = {
    "font.size": 11,
    "axes.titlesize": 11,
    "axes.labelsize": 11,
    "legend.fontsize": 10,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "legend.frameon": False,
    "figure.facecolor": "white",
}


@contextmanager
def picture(path: Path, height: float) -> Iterator[Figure]:
    """
    Gives a figure to draw on, and writes it as PNG when the block ends.

    Args:
        path (`Path`): The PNG file; its folder is created.
        height (`float`): Height in inches; the width is always the same.
    """
    # No pyplot: it keeps every figure in a global list and looks for a display.
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=DPI)


@contextmanager
def panels(
    path: Path,
    names: list[str],
    title: str,
    *,
    panel_height: float = 2.6,
    columns: int | None = None,
    **sharing: Any,
) -> Iterator[list]:
    """
    Gives one titled panel per name, at most three per row (two if there are four).

    Args:
        path (`Path`): The PNG file.
        names (`list[str]`): Title of each panel.
        title (`str`): Title of the picture.
        panel_height (`float`): In inches.
        columns (`int`, *optional*): Panels per row, instead.
        **sharing: `sharex` and `sharey` of `Figure.subplots`.

    Returns:
        `list[Axes]`: In the order of `names`.
    """
    columns = columns or (2 if len(names) == 4 else min(3, len(names)))
    rows = -(-len(names) // columns)
    with picture(path, 0.75 + panel_height * rows + (0.9 if rows == 1 else 0)) as figure:
        grid = figure.subplots(rows, columns, squeeze=False, **sharing)
        axes = list(grid.flat)
        for unused in axes[len(names) :]:
            unused.remove()
        for axis, name in zip(axes, names):
            axis.set_title(shorten(name, 84 // columns))
            axis.tick_params(labelbottom=True)
        figure.suptitle(shorten(title, 90), fontsize=12)
        yield axes[: len(names)]


def num_bins(count: int) -> int:
    """Number of bars of a histogram by Rice's rule, so that few values give no comb."""
    return max(8, min(30, round(2 * count ** (1 / 3))))


def in_percent(count: int) -> np.ndarray:
    """Weights of a histogram's values that make its bars shares in percent."""
    return np.full(count, 100 / count)


def accuracy_axis(axis: Axes, room: float = 0.0) -> None:
    """Makes the vertical axis one of accuracies from 0 to 1, with space on top and a line at chance."""
    axis.axhline(0.5, color=GRAY, linestyle="--", linewidth=1, zorder=0.5)
    axis.set_ylim(0, 1 + room)
    axis.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axis.grid(False, axis="x")


def label_outer(axes: list[Axes], x: str, y: str) -> None:
    """Labels the lowest panel of each column and the first of each row."""
    columns = axes[0].get_subplotspec().get_gridspec().ncols
    for number, axis in enumerate(axes):
        if number + columns >= len(axes):
            axis.set_xlabel(x)
        if number % columns == 0:
            axis.set_ylabel(y)


def shared_legend(axes: list[Axes], columns: int = 4) -> None:
    """Puts one legend of all that the panels show under the grid."""
    found = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels())}
    axes[0].figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=columns)


def shorten(text: str, width: int) -> str:
    """The text, with its middle left out if it is longer than `width` characters."""
    if len(text) <= width:
        return text
    half = (width - 1) // 2
    return f"{text[:half]}…{text[-half:]}"


def slug(name: str) -> str:
    """A name as part of a file name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "model"
