"""A loss that is no number stops the run in the step where it arises, with the rows that it comes from."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather_object

from ..batches.collator import MicroBatch
from ..batches.tokenization import TokenizedPreferences
from ..errors import InputError, beginning
from .manifest import newest_complete


if TYPE_CHECKING:
    from .trainer import RewardModelTrainer

MOST_ROWS = 5
MOST_CHARACTERS = 60


class StepWatch:
    """
    Keeps what one optimizer step computed until it is known to be finite. Nothing is read from the device before.

    Args:
        trainer (`RewardModelTrainer`): Its data and tokenizer name the rows.
    """

    def __init__(self, trainer: RewardModelTrainer):
        self.trainer = trainer
        self.parts: list[tuple[MicroBatch, torch.Tensor, tuple[torch.Tensor, ...]]] = []

    def begin(self) -> None:
        """Forgets the step before."""
        self.parts.clear()

    def add(self, batch: MicroBatch, rewards: torch.Tensor, losses: tuple[torch.Tensor, ...]) -> None:
        """Takes the rewards and the losses of one micro-batch, on their device."""
        self.parts.append((batch, rewards, losses))

    def error(self, what: str, value: float) -> InputError:
        """
        Builds the error; called by all processes of the run together.

        Args:
            what (`str`): `"loss"` or `"gradient norm"`.
            value (`float`): The number that is none, of this process.
        """
        levels = zip(*gather_object([self._suspects()]))
        closest = next((level for level in (list(chain(*level)) for level in levels) if level), [])
        found = [text for _, text in sorted(dict(closest).items())] or ["(none of them is known)"]
        number = len(found)
        shown = "; ".join(found[:MOST_ROWS]) + (f"; and {number - MOST_ROWS} more" if number > MOST_ROWS else "")
        trainer = self.trainer
        last = newest_complete(trainer.args.output_dir)
        kept = f"The last good checkpoint is {last}" if last else "There is no checkpoint yet"
        shape = "is not finite" if value == value and abs(value) != float("inf") else f"is {value}"
        return InputError(
            f"the {what} of step {trainer.state.global_step + 1} {shape}; the run ends before it is saved. It comes from "
            f"the row(s) {shown}. {kept}. Look at these rows, or start again with a lower `learning_rate`, more "
            "`warmup_steps` or a smaller `max_grad_norm`."
        )

    def _suspects(self) -> list[list[tuple[int, str]]]:
        """
        Rows of this process, with what is said of them: those whose own rewards are not finite; those of micro-batches
        with such a loss; all of the step.
        """
        pairs: list[tuple[int, tuple]] = []
        batches: list[tuple[int, tuple]] = []
        everything: list[tuple[int, tuple]] = []
        for batch, rewards, losses in self.parts:
            named = [(row, (pair, batch.data)) for row, pair in zip(batch.rows, batch.pairs)]
            everything += named
            if not all(bool(torch.isfinite(loss)) for loss in losses):
                batches += named
            finite = torch.isfinite(rewards[batch.better] - rewards[batch.worse]).tolist()
            pairs += [entry for entry, good in zip(named, finite) if not good]
        return [
            [(row, self._describe(row, *place)) for row, place in sorted(dict(reversed(level)).items())]
            for level in (pairs, batches, everything)
        ]

    def _describe(self, row: int, pair: int, data: TokenizedPreferences | None) -> str:
        trainer = self.trainer
        data, tokenizer = data or trainer.train_data, trainer.processing_class
        text = tokenizer.decode(data.sequence(data.better[pair])[: 2 * MOST_CHARACTERS], skip_special_tokens=True)
        name = f"{row}{trainer.row_tags(row)}"
        return f"{name}: '{beginning(text, MOST_CHARACTERS)}'"


def row_tags(dataset: Any, row: int) -> str:
    """Returns ` (prompt_id 'x', source 'y')` for a row of a data set that has such columns, or an empty string."""
    if not hasattr(dataset, "column_names") or row >= len(dataset):  # tokenised already
        return ""
    values = dataset[row]
    tags = [f"{name} '{values[name]}'" for name in ("prompt_id", "source") if values.get(name)]
    return f" ({', '.join(tags)})" if tags else ""
