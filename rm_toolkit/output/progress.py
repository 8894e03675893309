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


def say(line: str) -> None:
    """
    Prints a line of a run at once: above its bar, where there is one.

    Args:
        line (`str`): What to say.
    """
    from tqdm.auto import tqdm

    tqdm.write(line)
    sys.stdout.flush()
