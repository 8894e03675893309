"""The largest size of a micro-batch, in pairs or tokens: how it is printed, recorded and halved."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..batches.micro_batch import MicroBatch
from ..errors import InputError


AUTO = "auto"


@dataclass(frozen=True)
class MicroBatchSize:
    """
    The most that one process computes at once.

    Args:
        pairs (`int`): Pairs; not used where `tokens` is given.
        tokens (`int`, *optional*): Tokens, padding included, a shared prompt once.
    """

    pairs: int
    tokens: int | None = None

    def __str__(self) -> str:
        return f"{self.pairs} pairs" if self.tokens is None else f"{self.tokens} tokens"

    @classmethod
    def parse(cls, text: str | None) -> MicroBatchSize | None:
        """Parses the output of `str()`; `None` for anything else."""
        found = re.fullmatch(r"(\d+) (pairs|tokens)", text or "")
        if found is None:
            return None
        number = int(found[1])
        return cls(number) if found[2] == "pairs" else cls(1, number)

    def filled(self, batches: Sequence[MicroBatch]) -> int:
        """Size of the fullest of some micro-batches, in the unit of this size."""
        if self.tokens is None:
            return max((batch.num_places for batch in batches), default=0)
        return max((batch.input_ids.numel() for batch in batches if batch.num_places), default=0)

    def halved(self, filled: int) -> MicroBatchSize:
        """
        Returns half the size of a micro-batch that did not fit.

        Args:
            filled (`int`): From [`filled`]; at most this size, except for a single pair.
        """
        if self.tokens is None:
            return MicroBatchSize(max(1, min(self.pairs, filled) // 2))
        return MicroBatchSize(self.pairs, max(1, min(self.tokens, filled) // 2))


def number_or_auto(value: int | str | None) -> int | str | None:
    """Parses the value of a recipe or of the command line, where every number is text."""
    if not isinstance(value, str) or value == AUTO:
        return value
    try:
        return int(value)
    except ValueError:
        raise InputError(f"`max_tokens_per_batch` is '{value}'; it must be a number of tokens, or '{AUTO}'.") from None
