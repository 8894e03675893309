"""How the plain-text prompts of a dataset end: whether they are marked dialogues, or bare questions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from datasets import Dataset, IterableDataset


# Of the two kinds of marked dialogues, and of both together.
ENDINGS = ("## Assistant:", "\n\nAssistant:", "Assistant:")
ROWS = 200  # looked at, of each dataset


def prompt_ending(datasets: Mapping[str, Dataset | IterableDataset]) -> str | None:
    """
    Returns the one of `ENDINGS` in which every plain-text prompt of some datasets ends (the first rows are looked at), or
    `None`.

    Args:
        datasets (`Mapping[str, Dataset | IterableDataset]`): With a column `prompt`; others have no prompts in plain text.
    """
    endings, seen = ENDINGS, False
    for dataset in datasets.values():
        if "prompt" not in (dataset.column_names or ()):
            return None
        for row in dataset.take(ROWS):
            if not isinstance(row["prompt"], str):
                return None
            endings = tuple(ending for ending in endings if row["prompt"].rstrip().endswith(ending))
            seen = True
    return endings[0] if seen and endings else None


def are_bare(texts: Iterable[str]) -> bool:
    """Returns whether none of some texts, each a prompt with its response, is a marked dialogue of either kind."""
    return not any(ENDINGS[-1] in text for text in texts)
