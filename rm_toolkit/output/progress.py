"""Bars that are drawn over themselves on a terminal, and nowhere else: a log in a file holds plain lines."""

# Nothing heavy is imported here: it is called before the libraries are.
from __future__ import annotations

import os
import sys


# Libraries read these when they are imported; a user's own value stays.
QUIET = ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS")


def is_shown() -> bool:
    """Whether what is drawn over itself can be seen: on a terminal, or in a notebook, which has bars of its own."""
    return "ipykernel" in sys.modules or (sys.stderr is not None and sys.stderr.isatty())


def no_bar(show: bool = True) -> bool:
    """
    Returns `disable` of a bar.

    Args:
        show (`bool`): Whether a bar is wanted where it can be seen.
    """
    return not (show and is_shown())


def hide_bars_of_libraries() -> None:
    """Keeps the bars of datasets, transformers and huggingface_hub out of files; called before they are imported."""
    if not is_shown():
        for name in QUIET:
            os.environ.setdefault(name, "1")


def has_colors() -> bool:
    """Whether standard output shows colours: a terminal, unless the user wants none (https://no-color.org)."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return not plain and sys.stdout is not None and sys.stdout.isatty()


def say(line: str, *, stands_out: bool = False) -> None:
    """
    Prints a line of a run at once: above its bar, where there is one.

    Args:
        line (`str`): What to say.
        stands_out (`bool`): Whether it is coloured where there are colours.
    """
    from tqdm.auto import tqdm

    tqdm.write(f"\033[36m{line}\033[0m" if stands_out and has_colors() else line)
    if sys.stdout is not None:
        sys.stdout.flush()
