"""Preferences as token ids, as accepted by TRL's reward trainer: found, checked and loaded for a recipe."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, name_list
from ..output.places import about
from .cache import remove_left_beside
from .leakage import mark_origin
from .pairing import label_scores, plain
from .records import Place, RecordFile, is_saved_dataset, open_dataset
from .schema import describe, number_value
from .specs import DatasetSpec
from .splits import in_fraction, split_by_prompt, take_fraction


if TYPE_CHECKING:
    from datasets import Dataset, Features


logger = logging.getLogger(__name__)

ID_COLUMNS = ("chosen_ids", "rejected_ids")  # TRL's names
OLD_ID_COLUMNS = ("chosen_input_ids", "rejected_input_ids")  # TRL before 1.0
# Keys of a SPEC that say how texts are read.
OF_TEXTS = ("domain", "columns", "ignore_columns", "template", "label", "min_score_ratio")


def id_columns(names: Iterable[str]) -> tuple[str, str] | None:
    """Returns the two columns of token ids of a dataset; `None` if its rows are texts."""
    names = set(names)
    return next((columns for columns in (ID_COLUMNS, OLD_ID_COLUMNS) if names.issuperset(columns)), None)


def read_id_list(value: Any, name: str, place: Place) -> list[int]:
    """
    Returns the token ids of one text.

    Raises:
        `InputError`: unless they are a non-empty list of whole numbers.
    """
    ids = plain(value)
    if not isinstance(ids, list) or not ids or not all(type(token) is int for token in ids):
        raise place.error(f"`{name}` must be a list of token ids, got {describe(ids)}.")
    return ids


def id_features() -> Features:
    """Returns the columns of rows of token ids, as loaded by a recipe."""
    from datasets import Features, List, Value

    numbers = {name: Value("float64") for name in ("score_chosen", "score_rejected", "margin")}
    tags = {name: Value("string") for name in ("domain", "source", "prompt_id")}
    return Features({name: List(Value("int64")) for name in ID_COLUMNS} | numbers | tags)


def holds_ids(spec: DatasetSpec) -> bool:
    """Whether the input of a SPEC has token ids, judged by its first record."""
    if spec.source not in (None, "auto", "preference"):
        return False
    if Path(spec.path).is_file():
        return first_has_ids([RecordFile(spec.path)])
    if not is_saved_dataset(spec.path):
        return False  # an input other than a `save_to_disk` folder is opened only once, by its reader
    return id_columns(open_dataset(spec.path, spec.split).column_names) is not None


def first_has_ids(files: Sequence[RecordFile]) -> bool:
    """Whether the first record of some files has token ids."""
    record = next((record for file in files for _, record in file.records()), None)
    return isinstance(record, Mapping) and id_columns(record) is not None


def load_id_rows(spec: DatasetSpec, seed: int, cache_dir: str | None = None) -> Dataset:
    """
    Loads rows of token ids.

    Args:
        spec (`DatasetSpec`): Spec with its `split`.
        seed (`int`): Seed of its `fraction` and `test_size`.
        cache_dir (`str`, *optional*): Cache; default: that of `datasets`.

    Raises:
        `InputError`: naming the row that cannot be used, or a key of the SPEC that says how texts are read.
    """
    from datasets import Dataset
    from datasets.exceptions import DatasetGenerationError

    check_spec(spec)
    file = RecordFile(spec.path, spec.split)
    reading = {"file": file, "fingerprint": file.fingerprint(), "spec": spec}
    try:
        with about(cache_dir):
            dataset = Dataset.from_generator(
                _all_rows, features=id_features(), cache_dir=cache_dir, gen_kwargs=reading
            )
        remove_left_beside(dataset)
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        raise
    origin = "whole" if Path(spec.path).is_file() else "given"
    if spec.test_size:
        train, test = split_by_prompt(dataset, spec.test_size, seed)
        dataset, origin = (test if spec.split == "test" else train), "made"
    return mark_origin(take_fraction(dataset, spec.fraction, seed), spec.path, spec.split, origin)


def check_spec(spec: DatasetSpec) -> None:
    """Raises an `InputError` for a key of a SPEC that does not apply to token ids."""
    given = [key for key in OF_TEXTS if getattr(spec, key)]
    given += [key for key in ("strip_citations", "drop_contradictions") if getattr(spec, key)]
    if given:
        raise InputError(f"{spec.path} has token ids, for which {name_list(given)} has no use; remove it.")
    if spec.layout == "ranked":
        raise InputError(f"{spec.path} has pairs of token ids, which cannot be ranked rows; remove `layout`.")


def _all_rows(file: RecordFile, fingerprint: str, spec: DatasetSpec) -> Iterator[dict[str, Any]]:
    yield from usable_id_rows(file.records(), spec)  # the fingerprint is for the cache: another file has other rows


def stream_id_rows(shards: list[RecordFile], reading: tuple[DatasetSpec, int]) -> Iterator[dict[str, Any]]:
    """
    Yields rows of token ids in order.

    Args:
        shards (`list[RecordFile]`): Read in this order; `datasets` gives each process its own.
        reading (`tuple`): Spec, and seed of its fraction.
    """
    spec, seed = reading
    for shard in shards:
        for row in usable_id_rows(shard.records(), spec):
            if spec.fraction == 1 or in_fraction(row["prompt_id"], spec.fraction, seed):
                yield row


def usable_id_rows(records: Iterable[tuple[Place, Any]], spec: DatasetSpec) -> Iterator[dict[str, Any]]:
    """Yields the rows that state a preference; another row raises an error, or is logged with `skip_invalid`."""
    for place, record in records:
        try:
            yield _row(record, place, spec)
        except InputError as error:
            if not spec.skip_invalid:
                raise
            logger.warning("left out: %s", error)


def _row(record: Any, place: Place, spec: DatasetSpec) -> dict[str, Any]:
    if isinstance(record, InputError):
        raise record
    columns = id_columns(record) if isinstance(record, Mapping) else None
    if columns is None:
        raise place.error(f"the row must have the token ids `chosen_ids` and `rejected_ids`, got {describe(record)}.")
    chosen, rejected = (read_id_list(record[name], name, place) for name in columns)
    label_scores(record.get("score_chosen"), record.get("score_rejected"), place)
    margin = record.get("margin")
    if margin is not None:
        margin = number_value(plain(margin), "margin", place)
    shared = next((n for n, (a, b) in enumerate(zip(chosen, rejected)) if a != b), min(len(chosen), len(rejected)))
    said = chosen[:shared] or [*chosen, -1, *rejected]
    return {
        **dict(zip(ID_COLUMNS, (chosen, rejected))),
        "score_chosen": record.get("score_chosen"),
        "score_rejected": record.get("score_rejected"),
        "margin": margin,
        "domain": record.get("domain"),
        "source": record.get("source"),
        "prompt_id": record.get("prompt_id") or hashlib.sha256(repr(said).encode()).hexdigest()[:16],
    }


def check_one_kind(datasets: Mapping[str, Any]) -> None:
    """
    Refuses to mix datasets of token ids with datasets of texts.

    Args:
        datasets (`dict[str, datasets.Dataset or IterableDataset]`): The datasets to concatenate.
    """
    ids = {name: id_columns(dataset.features) is not None for name, dataset in datasets.items()}
    if any(ids.values()) and not all(ids.values()):
        first, other = (next(name for name, is_ids in ids.items() if is_ids is kind) for kind in (True, False))
        raise InputError(
            f"dataset '{first}' has token ids and '{other}' texts, which cannot be mixed. Give all as texts, or all as "
            "token ids."
        )
