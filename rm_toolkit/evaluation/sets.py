"""The test sets of an evaluation: loaded by SPEC, each in the format that a model reads."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ..batches.refused_rows import clean_rows, first_refused, locate, without_refused
from ..data.mixture import load_datasets
from ..data.records import RowPlace
from ..data.schema import find_format
from ..data.specs import DatasetSpec
from ..errors import InputError
from .preferences import PreferencePairs, read_preferences


logger = logging.getLogger(__name__)

Spec = str | Mapping[str, Any] | DatasetSpec | Dataset


class TestSets:
    """
    The test sets of an evaluation, in the format that each model reads. Each is loaded once.

    Args:
        specs (`dict`): Name -> SPEC as in a recipe, or a loaded dataset.
        split (`str`): Split to use if a SPEC does not name one.
        seed (`int`): Seed of fractions and splits made here.
        cache_dir (`str`, *optional*): Cache for raw files.
        tokenizers (`Callable`): Returns the tokenizers of all chat models. If a set's spec has `skip_invalid`, rows that
            one of their chat templates refuses are left out for all, so that all models are compared on the same pairs.
    """

    __test__ = False  # pytest would collect the class by its name

    def __init__(
        self,
        specs: Mapping[str, Spec],
        split: str,
        seed: int,
        cache_dir: str | None,
        tokenizers: Callable[[], list[PreTrainedTokenizerBase]],
    ):
        self.specs, self.split, self.tokenizers = specs, split, tokenizers
        self.refused: dict[str, int] = {}
        self.options = {"seed": seed, "cache_dir": cache_dir}
        self.loaded: dict[str, dict[str, PreferencePairs]] = {}

    def load(self, data_format: str) -> dict[str, PreferencePairs]:
        """
        Returns the pairs of every set.

        Args:
            data_format (`str`): `text` or `chat`.

        Raises:
            `InputError`: if a set cannot be read, or is in the other format and not given as a SPEC to convert.
        """
        if data_format not in self.loaded:
            tables = {}
            for name, spec in self.specs.items():
                dataset = spec
                if not isinstance(spec, Dataset):
                    dataset = load_datasets({name: spec}, self.split, format=data_format, **self.options)[name]
                _check_format(dataset, data_format, name)
                if data_format == "chat" and not isinstance(spec, Dataset):
                    dataset = self._without_refused(dataset, spec, name)
                tables[name] = read_preferences(dataset, name)
            self.loaded[data_format] = tables
        return self.loaded[data_format]

    def _without_refused(self, dataset: Dataset, spec: Spec, name: str) -> Dataset:
        if not DatasetSpec.parse(spec, name).skip_invalid:
            return dataset
        dataset, refused = without_refused(dataset, self.tokenizers(), name)
        if refused:
            self.refused[name] = len(refused)
            logger.warning(
                "%d rows that a chat template refuses are left out; the first: %s", len(refused), refused[0]
            )
        return dataset

    def locate(self, name: str, tokenizer: PreTrainedTokenizerBase) -> InputError | None:
        """Returns an error that names the first row of a set that a chat template refuses, and its place."""
        spec = self.specs[name]
        if isinstance(spec, Dataset):
            rows = ((RowPlace(f"test set '{name}'", "row", n), row) for n, row in enumerate(clean_rows(spec), 1))
            return first_refused(rows, tokenizer)
        problem = locate(DatasetSpec.parse(spec, name), self.split, tokenizer)
        return problem and InputError(f"test set '{name}': {problem}")

    def describe(self, name: str, table: PreferencePairs) -> dict[str, Any]:
        """Returns the entry of a set in `metrics.json`: its SPEC, fingerprint and counts."""
        spec = self.specs[name]
        return {
            "spec": None if isinstance(spec, Dataset) else asdict(spec) if isinstance(spec, DatasetSpec) else spec,
            "fingerprint": table.fingerprint(),
            "num_rows": table.num_rows,
            "num_pairs": len(table),
            "num_prompts": len(np.unique(table.prompt)),
            "num_texts": len(table.completions),
            "num_label_ties": table.num_label_ties,
            **({"num_refused": self.refused[name]} if name in self.refused else {}),
            "domains": sorted({value for value in table.tags.get("domain", []) if value}),
        }


def _check_format(dataset: Dataset, data_format: str, name: str) -> None:
    column = "chosen" if "chosen" in dataset.column_names else "completions"
    found = "prompt" in dataset.column_names and find_format(dataset.features)
    if found and column in dataset.column_names and found != data_format:
        raise InputError(
            f"test set '{name}' is in {found} format, but a model reads {data_format}. Give it as a SPEC without "
            "`format`; it is then converted for each model."
        )
