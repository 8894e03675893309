"""How the plain-text prompts of a dataset end: whether they are marked dialogues, or bare questions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from datasets import Dataset, IterableDataset


ENDING = "Assistant:"  # of both kinds of marked dialogues: "## Assistant:\n" and "\n\nAssistant:"
ROWS = 200  # looked at, of each dataset


def prompt_ending(datasets: Mapping[str, Dataset | IterableDataset]) -> str | None:
    """
    Returns "Assistant:" if every plain-text prompt of some datasets ends in it (the first rows are looked at), else `None`.

    Args:
        datasets (`Mapping[str, Dataset | IterableDataset]`): With a column `prompt`; others have no prompts in plain text.
    """
    seen = False
    for dataset in datasets.values():
        if "prompt" not in (dataset.column_names or ()):
            return None
        for row in dataset.take(ROWS):
            if not isinstance(row["prompt"], str) or not row["prompt"].rstrip().endswith(ENDING):
                return None
            seen = True
    return ENDING if seen else None


def lack_ending(ending: str, texts: Iterable[str]) -> bool:
    """Returns whether none of some texts, each a prompt with its response, has the mark."""
    return not any(ending in text for text in texts)
