"""The figures of an inspection: lengths of texts, and the words that distinguish groups."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from ..output.plotting import BLUE, GRAY, VERMILLION, in_percent, label_outer, num_bins, panels


if TYPE_CHECKING:
    from .words import DistinctiveWord


CLOUD_SIZE = (760, 420)  # pixels
INSTALL_WORDCLOUD = "pip install wordcloud"
# Okabe and Ito's colors that are pale on white are darkened, because they are used for text here.
CLOUD_COLORS = (BLUE, VERMILLION, "#00795A", "#A8517F", "#8F6000", "#404040")


def draw_figures(
    result: dict[str, Any],
    lengths: dict[str, np.ndarray],
    words: dict[str, list[DistinctiveWord]],
    folder: Path,
    word_clouds: bool,
) -> list[tuple[str, str]]:
    """
    Draws every figure for which there is data.

    Returns:
        `list[tuple[str, str]]`: File names and captions.
    """
    drawn = [("lengths.png", f"Lengths in {result['lengths']['unit']}")]
    cut = result["cut"]
    draw_lengths(lengths, result["lengths"]["unit"], cut and cut["max_length"], folder / drawn[0][0])
    words = {name: own for name, own in words.items() if own}
    if word_clouds and words:
        drawn.append(("words.png", "The most distinctive words of each group; the larger, the more distinctive"))
        draw_words(words, folder / drawn[-1][0])
    return drawn


def draw_lengths(lengths: dict[str, np.ndarray], unit: str, max_length: int | None, path: Path) -> None:
    """One histogram per group, with a line at `max_length` if it is known."""
    groups = {name: values for name, values in lengths.items() if len(values)}
    # The few longest would squeeze all others into one bar.
    end = max(float(np.quantile(values, 0.995)) for values in groups.values())
    end = max(end, 1.0)
    bins = num_bins(max(len(values) for values in groups.values()))
    edges = np.linspace(0, end, min(bins, int(end)) + 1)
    limit = f"; solid: max_length {max_length}" if max_length and max_length <= end else ""
    title = f"Lengths in {unit} (dashed: median{limit}; last bar: the longest 0.5%)"
    with panels(path, list(groups), title, panel_height=2.5, sharex=True) as axes:
        for axis, (name, values) in zip(axes, groups.items()):
            axis.hist(np.minimum(values, end), edges, weights=in_percent(len(values)), color=BLUE, alpha=0.85)
            axis.axvline(np.median(values), color="black", linestyle="--", linewidth=1.5)
            note = f"median {np.median(values):,.0f}, longest {values.max():,}"
            if name == "whole texts" and max_length is not None:
                note = f"longest {values.max():,}, {(values > max_length).mean():.1%} over {max_length}"
                if max_length <= end:
                    axis.axvline(max_length, color=VERMILLION, linewidth=2.5)
            axis.set_title(f"{name}\n{note}", fontsize=10)
            axis.set_xlim(0, end)
        label_outer(axes, f"{unit} of a text", "share of texts (%)")


def draw_words(words: dict[str, list[DistinctiveWord]], path: Path) -> None:
    """
    One word cloud per group, words sized by their score.

    Raises:
        `InputError`: if `wordcloud` is not installed.
    """
    require_wordcloud()
    from wordcloud import WordCloud

    with panels(path, list(words), "The most distinctive words of each group", panel_height=2.45, columns=2) as axes:
        for number, (axis, own) in enumerate(zip(axes, words.values())):
            color = CLOUD_COLORS[number % len(CLOUD_COLORS)]
            cloud = WordCloud(
                width=CLOUD_SIZE[0],
                height=CLOUD_SIZE[1],
                background_color="white",
                color_func=lambda *args, color=color, **kwargs: color,
                prefer_horizontal=1.0,
                margin=8,
                min_font_size=26,
                max_font_size=110,
                random_state=0,
            ).generate_from_frequencies({word.word: word.score for word in own})
            axis.imshow(cloud.to_array(), interpolation="bilinear")
            axis.grid(False)
            axis.set(xticks=[], yticks=[])
            for spine in axis.spines.values():
                spine.set_visible(True)
                spine.set_color(GRAY)


def require_wordcloud() -> None:
    """
    Raises:
        `InputError`: with the command that installs it, if `wordcloud` is missing.
    """
    try:
        import wordcloud  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"the word clouds need the package `wordcloud`: {INSTALL_WORDCLOUD}; or pass --no-word-clouds; the table of "
            "words does not need it."
        ) from error
