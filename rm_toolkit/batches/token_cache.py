"""Token ids of a dataset, stored beside the `datasets` cache: the next run with the same rows skips tokenization."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets.fingerprint import Hasher
from transformers import PreTrainedTokenizerBase

from ..output.folders import replaced_file
from ..output.temporary import remove_left_in
from .chat_clock import reads_clock
from .mapped_arrays import read_arrays, write_arrays


# Version of the rule by which rows become token ids. Raise it whenever the same rows, tokenizer and options could give
# other ids or fields of `TokenizedPreferences`: files of an older rule are then never read again. A new version of the
# toolkit alone is not a reason, so that an upgrade keeps the stored ids of large datasets. Versions up to 0.2.1 had the
# toolkit's version in the key instead, and no rule in the file name.
RULE = 7
# Fewer rows are tokenized faster than a file is found.
MIN_ROWS = 1000


@dataclass
class TokenCache:
    """
    The file with the token ids of one dataset, tokenizer and set of options.

    Args:
        path (`Path`): An `.npz` file, named by the rule and the fingerprint of all three.
    """

    path: Path

    @classmethod
    def of(cls, dataset: Any, tokenizer: PreTrainedTokenizerBase, options: tuple) -> TokenCache | None:
        """Returns the cache of a dataset, or `None` if its ids are not stored, see [`keeps`]."""
        if not cls.keeps(dataset, tokenizer, "chat" if "chat" in options else "text"):
            return None
        fingerprint = dataset._fingerprint
        made_by = (tokenizer.backend_tokenizer.to_str(), tokenizer.chat_template, tokenizer.eos_token_id)
        return cls.named("tokens", (RULE, fingerprint, made_by, options))

    @classmethod
    def named(cls, kind: str, contents: tuple) -> TokenCache:
        """Returns the cache for these contents, with `kind` in its file name."""
        name = f"{kind}-rule{RULE}-{Hasher.hash(contents)}.npz"
        return cls(Path(datasets.config.HF_DATASETS_CACHE, "rm_toolkit", name))

    @staticmethod
    def keeps(dataset: Any, tokenizer: PreTrainedTokenizerBase, data_format: str) -> bool:
        """
        Whether the token ids are stored: not for a small dataset, without a fingerprint, or with a clock in the
        template.
        """
        if getattr(dataset, "_fingerprint", None) is None or len(dataset) < MIN_ROWS:
            return False
        # With a clock the same rows have different ids tomorrow; a fixed date is part of the template.
        return datasets.is_caching_enabled() and not (data_format == "chat" and reads_clock(tokenizer))

    def load(self) -> dict[str, Any] | None:
        """
        Returns the fields of `TokenizedPreferences`, mapped from the file, or `None` if nothing readable is stored.
        """
        # A partial file of another version is not an error: the texts are tokenized again.
        with contextlib.suppress(Exception):  # zipfile and numpy raise various errors on a damaged file
            return {name: _restore(values) for name, values in read_arrays(self.path).items()}
        return None

    def save(self, fields: dict[str, Any]) -> None:
        """Stores the fields; ignores a folder that is not writable."""
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            remove_left_in(self.path.parent, "tokens-")
            with replaced_file(self.path, "wb") as file:
                write_arrays(file, {name: np.zeros(0) if value is None else value for name, value in fields.items()})


def _restore(value: np.ndarray) -> Any:
    if value.ndim == 0:
        return value.item()
    return None if value.dtype == np.float64 else value  # no field has that type: it encodes `None`
