"""Line charts over steps as inline SVG: no script, readable in dark and light, every text escaped."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence


Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 420, 190
LEFT, RIGHT, TOP, BOTTOM = 54, 10, 10, 24
MOST_POINTS = 400  # of one line: more than the chart has pixels to show
DASHES = ("", "6 3", "2 3", "8 3 2 3")
NUM_COLORS = 7  # `--line-0` and so on, in the page's style


def line_chart(lines: Mapping[str, Points], label: str, last_step: float) -> str:
    """
    Returns an `<svg>` element.

    Args:
        lines (`dict[str, Sequence[tuple[float, float]]]`): For each name, (step, value) in order; all finite.
        label (`str`): Description of the chart for screen readers.
        last_step (`float`): End of the x-axis; it begins at 0, so that all charts of a page can be compared.
    """
    x_low, x_high = 0.0, last_step or 1.0
    ticks = nice_ticks(*_span([y for points in lines.values() for _, y in points]))
    y_low, y_high = ticks[0], ticks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low)
        up = (y - y_low) / (y_high - y_low)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    parts = []
    for tick in ticks:
        _, y = place(x_low, tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{figure(tick)}</text>')
    for x, anchor in ((x_low, "start"), (x_high, "end")):
        parts.append(
            f'<text x="{place(x, y_low)[0]:.1f}" y="{HEIGHT - 7}" text-anchor="{anchor}">step {x:,.0f}</text>'
        )
    for number, points in enumerate(lines.values()):
        shown = [place(*point) for point in thinned(points)]
        style = f'style="stroke:var(--line-{number % NUM_COLORS})"'
        dash = DASHES[number // NUM_COLORS % len(DASHES)]
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        parts.append(f'<polyline {style}{dashes} points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in shown)}"/>')
        x, y = shown[-1]
        parts.append(f'<circle style="fill:var(--line-{number % NUM_COLORS})" cx="{x:.1f}" cy="{y:.1f}" r="2.6"/>')
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(label)}">'
        + "".join(parts)
        + "</svg>"
    )


def thinned(points: Points, most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """
    Returns at most about `most` of the points: of every interval the lowest and the highest, so that no peak is lost.
    """
    if len(points) <= most:
        return list(points)
    stretch = math.ceil(2 * len(points) / most)
    kept: set[int] = {0, len(points) - 1}
    for begin in range(0, len(points), stretch):
        inside = range(begin, min(begin + stretch, len(points)))
        kept |= {min(inside, key=lambda n: points[n][1]), max(inside, key=lambda n: points[n][1])}
    return [points[n] for n in sorted(kept)]


def nice_ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Returns round numbers, evenly apart, from at or below `low` to at or above `high`."""
    rough = (high - low) / about
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * part for part in (1, 2, 2.5, 5, 10) if size * part >= rough * 0.999999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [k * step for k in range(first, max(last, first + 1) + 1)]


def figure(value: float) -> str:
    """A number in few digits."""
    return f"{value:.4g}"


def _span(values: list[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    if high - low > 1e-9 * max(abs(low), abs(high)):
        return low, high
    room = abs(low) * 0.05 or 1.0
    return low - room, low + room
