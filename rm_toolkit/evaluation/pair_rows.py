"""`pairs.parquet`: every pair as every model judges it, with its texts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import expit

from ..data.schema import Text
from ..output.page.escaping import utf8_json
from .preferences import TAGS, PreferencePairs, text_length


if TYPE_CHECKING:
    import pyarrow

# A row group is held in memory while it is written.
GROUP_ROWS = 20_000
GROUP_CHARACTERS = 16_000_000
TEXTS = ("prompt", "chosen", "rejected")


@dataclass(frozen=True)
class Judged:
    """
    One test set as one model judges it.

    Args:
        model (`str`): Name of the model.
        table (`PreferencePairs`): The test set as the model reads it.
        rewards (`np.ndarray` of shape `(num_texts,)`): Reward of each text, in logits.
        cut (`np.ndarray` of shape `(num_texts,)`): Whether each text was cut and lost its beginning.
    """

    model: str
    table: PreferencePairs
    rewards: np.ndarray
    cut: np.ndarray

    @property
    def sides(self) -> tuple[np.ndarray, np.ndarray]:
        """Reward of the chosen and of the rejected response of each pair."""
        return self.rewards[self.table.better], self.rewards[self.table.worse]

    @property
    def sides_cut(self) -> tuple[np.ndarray, np.ndarray]:
        """Whether the chosen and the rejected response of each pair lost its beginning."""
        return self.cut[self.table.better], self.cut[self.table.worse]


def judged_sets(
    tables: dict[str, dict[str, PreferencePairs]],
    rewards: dict[str, dict[str, np.ndarray]],
    cut: dict[str, dict[str, np.ndarray]],
) -> dict[str, list[Judged]]:
    """
    Returns each test set as all models judge it.

    Args:
        tables, rewards, cut: For each model and test set, as in [`~rm_toolkit.evaluation.evaluator.Evaluation`].
    """
    tests = next(iter(tables.values()))
    return {
        test: [Judged(model, own[test], rewards[model][test], cut[model][test]) for model, own in tables.items()]
        for test in tests
    }


def write_pairs(sets: dict[str, list[Judged]], path: Path) -> None:
    """
    Writes one row per pair and model: the pairs of a set in order, and for each pair all models.

    Args:
        sets (`dict[str, list[Judged]]`): From [`judged_sets`].
        path (`Path`): Parquet file. Messages are JSON.
    """
    import pyarrow
    from pyarrow import parquet

    schema = _schema()
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for test, judged in sets.items():
            for pairs in _groups(judged):
                writer.write_table(pyarrow.Table.from_pydict(_columns(test, judged, pairs), schema))


def as_text(text: Text) -> str:
    """A text unchanged, messages as JSON."""
    return text if isinstance(text, str) else utf8_json(text)


def _schema() -> pyarrow.Schema:
    import pyarrow

    string, number, yes = pyarrow.string(), pyarrow.float64(), pyarrow.bool_()
    kinds = {"set": string, "pair": pyarrow.int64(), "model": string, "prompt_id": string, "format": string}
    kinds |= dict.fromkeys((*TEXTS, "tools", "chat_template_kwargs"), string)
    kinds |= dict.fromkeys(("reward_chosen", "reward_rejected", "margin", "p", "wanted_margin"), number)
    kinds |= dict.fromkeys(TAGS, string)
    kinds |= dict.fromkeys(("length_chosen", "length_rejected"), pyarrow.int64())
    kinds |= dict.fromkeys(("truncated_chosen", "truncated_rejected"), yes)
    return pyarrow.schema(list(kinds.items()))


def _groups(judged: list[Judged]) -> Iterator[np.ndarray]:
    """Yields indices of pairs in groups whose texts take little memory."""
    table = judged[0].table
    prompts = np.array([text_length(prompt) for prompt in table.prompts], dtype=np.int64)
    sizes = prompts[table.better] + table.lengths[table.better] + table.lengths[table.worse]
    begin, size = 0, 0
    for pair, own in enumerate((sizes * len(judged)).tolist()):
        if pair > begin and (size + own > GROUP_CHARACTERS or (pair - begin + 1) * len(judged) > GROUP_ROWS):
            yield np.arange(begin, pair)
            begin, size = pair, 0
        size += own
    yield np.arange(begin, len(table))


def _columns(test: str, judged: list[Judged], pairs: np.ndarray) -> dict[str, list[Any]]:
    """The rows of some pairs, as columns: the rows of a pair, one per model, are adjacent."""
    each = [_columns_of(test, own, pairs) for own in judged]
    return {name: [value for values in zip(*(own[name] for own in each)) for value in values] for name in each[0]}


def _columns_of(test: str, judged: Judged, pairs: np.ndarray) -> dict[str, list[Any]]:
    table = judged.table
    better, worse = table.better[pairs].tolist(), table.worse[pairs].tolist()
    chosen, rejected = (side[pairs].astype(np.float64) for side in judged.sides)
    ids, template, lengths = table.prompt_ids, table.template, table.lengths
    none = [None] * len(pairs)
    columns: dict[str, list[Any]] = {
        "set": [test] * len(pairs),
        "pair": pairs.tolist(),
        "model": [judged.model] * len(pairs),
        "prompt_id": none if ids is None else [ids[k] for k in table.prompt[pairs].tolist()],
        "format": ["text" if isinstance(table.completions[k], str) else "chat" for k in better],
        "prompt": [as_text(table.prompts[k]) for k in better],
        "chosen": [as_text(table.completions[k]) for k in better],
        "rejected": [as_text(table.completions[k]) for k in worse],
        "reward_chosen": chosen.tolist(),
        "reward_rejected": rejected.tolist(),
        "margin": (chosen - rejected).tolist(),
        "p": expit(chosen - rejected).tolist(),
        "wanted_margin": none if table.margin is None else table.margin[pairs].tolist(),
        "length_chosen": lengths[better].tolist(),
        "length_rejected": lengths[worse].tolist(),
    }
    for name in ("tools", "chat_template_kwargs"):
        said = none if template is None else [template[k][name] for k in better]
        columns[name] = [utf8_json(value) if value else None for value in said]
    for tag in TAGS:
        columns[tag] = [value or None for value in table.tags[tag][pairs]] if tag in table.tags else none
    for side, values in zip(("chosen", "rejected"), judged.sides_cut):
        columns[f"truncated_{side}"] = values[pairs].tolist()
    return columns
