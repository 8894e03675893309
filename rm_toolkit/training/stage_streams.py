"""What the recipes do differently if the training data is a stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from accelerate.utils import gather_object
from datasets import Dataset, IterableDataset

from ..batches.stream import PreferenceStream
from ..data.id_rows import id_columns
from ..data.messages import content_text, extras
from ..data.streams import OverlapWatch
from ..errors import InputError
from ..output.console import console


if TYPE_CHECKING:
    from .trainer import RewardModelTrainer


# Number of rows of each stream for training a tiny base's tokenizer.
TOKENIZER_ROWS = 10_000


def are_streams(datasets: dict[str, Any]) -> bool:
    """Whether training sets are streams."""
    return any(isinstance(dataset, IterableDataset) for dataset in datasets.values())


def amount_of_data(trainer: RewardModelTrainer) -> str:
    """How much there is to train on, in words."""
    if isinstance(trainer.train_dataset, PreferenceStream):
        return "pairs from a stream"
    return f"{len(trainer.train_dataset):,} pairs"


def watch_overlap(
    trainer: RewardModelTrainer,
    train: dict[str, IterableDataset],
    evaluation: dict[str, Dataset],
    allow_overlap: bool,
) -> None:
    """
    Looks for prompts of the test sets among the rows as they are read, since a stream cannot be read ahead; logs this.
    """
    trainer.train_dataset.watch = OverlapWatch(train, evaluation, allow_overlap)
    if evaluation and trainer.is_world_process_zero():
        console.print(
            "The training data is a stream: prompts that are also in a test set are found when they are read, not before "
            "the run."
        )


def report_overlap(trainer: RewardModelTrainer) -> None:
    """Prints how many streamed rows had the prompt of a test row, if that was allowed."""
    watch = getattr(trainer.train_dataset, "watch", None)
    if watch is None:
        return
    everyone = gather_object([watch.counts]) if trainer.accelerator.num_processes > 1 else [watch.counts]
    for name in watch.counts:
        count = sum(counts[name] for counts in everyone)
        if count and trainer.is_world_process_zero():
            console.print(f"{count:,} training rows that were read have the prompt of a row of test set '{name}'.")


def sample_texts(datasets: dict[str, Dataset | IterableDataset]) -> Iterator[str]:
    """Texts to train a tokenizer on: all, or those of the first rows of a stream."""
    for dataset in datasets.values():
        if id_columns(dataset.features) is not None:
            raise InputError("`tiny_base` trains its tokenizer on texts, but the training data has token ids.")
        for row in dataset.take(TOKENIZER_ROWS) if isinstance(dataset, IterableDataset) else dataset:
            responses = row["completions"] if "completions" in row else [row["chosen"], row["rejected"]]
            for response in responses:
                if isinstance(response, str):
                    yield (row.get("prompt") or "") + response
                else:
                    yield from (
                        content_text(message) + extras(message) for message in [*(row.get("prompt") or []), *response]
                    )
