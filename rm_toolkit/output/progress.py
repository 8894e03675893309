"""Progress bars only on a terminal: a log in a file has plain lines."""

# No slow imports here: this module is used before the libraries are imported.
from __future__ import annotations

import os
import sys


# Libraries read these when they are imported; a user's own value is kept.
QUIET = ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS")


def is_shown() -> bool:
    """Whether a progress bar can be shown: on a terminal, or in a notebook, which has its own bars."""
    return "ipykernel" in sys.modules or (sys.stderr is not None and sys.stderr.isatty())


def no_bar(show: bool = True) -> bool:
    """
    Returns `disable` of a bar.

    Args:
        show (`bool`): Whether to show a bar where possible.
    """
    return not (show and is_shown())


def hide_bars_of_libraries() -> None:
    """
    Keeps the bars of datasets, transformers and huggingface_hub out of log files; called before they are imported.
    """
    if not is_shown():
        for name in QUIET:
            os.environ.setdefault(name, "1")


def has_colors() -> bool:
    """Whether standard output shows colors: a terminal, unless the user wants none (https://no-color.org)."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return not plain and sys.stdout is not None and sys.stdout.isatty()


def say(line: str, *, stands_out: bool = False) -> None:
    """
    Prints a line of a run immediately: above its bar, if there is one.

    Args:
        line (`str`): The line.
        stands_out (`bool`): Whether it is colored, if colors are on.
    """
    from tqdm.auto import tqdm

    tqdm.write(f"\033[36m{line}\033[0m" if stands_out and has_colors() else line)
    if sys.stdout is not None:
        sys.stdout.flush()
