"""The training data of a recipe as streams: files, built folders and Hub datasets read row by row, shard by shard."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .cleaning import clean_row
from .id_rows import check_spec, first_has_ids, id_features, stream_id_rows
from .leakage import authors_split, mark_origin, shorten_prompt
from .pairing import label_scores, ranked_scores
from .rows import generate_rows
from .schema import ranked_features
from .shards import Shard, in_ranges, shards_of
from .sources import find_source
from .specs import DatasetSpec
from .splits import in_fraction
from .templates import convert_row, refuse_template_columns


if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset


logger = logging.getLogger(__name__)


def open_stream(
    spec: DatasetSpec, source: str | None, recognize: Callable[[DatasetSpec, str], str], seed: int
) -> IterableDataset:
    """
    Opens one dataset of a recipe as a stream of ranked rows. Only the first record is read.

    Texts are cleaned within each row: empty and repeated texts are removed. Duplicate rows are kept, since finding
    them needs the whole data, and a fraction of the prompts is exact only on average.

    Args:
        spec (`DatasetSpec`): Spec with its `split` and `format`.
        source (`str`, *optional*): Raw format; recognized automatically for text-score files and built datasets.
        recognize (`Callable`): Recognizes the source of a raw file by its form.
        seed (`int`): Seed of the fraction.

    Raises:
        `InputError`: if the dataset cannot be streamed.
    """
    from datasets import IterableDataset

    if spec.test_size:
        raise InputError(
            "`test_size` needs the whole data, but a stream is never loaded whole. Split with `rm-toolkit build-data`."
        )
    shards, built = shards_of(spec, source)
    if not built and source in (None, "auto", "preference") and first_has_ids(shards):
        check_spec(spec)
        shards = in_ranges(shards, None, spec.source_options())
        reading = {"shards": shards, "reading": (spec, seed)}
        dataset = IterableDataset.from_generator(stream_id_rows, features=id_features(), gen_kwargs=reading)
        return _with_origin(dataset, spec, shards)
    if Path(shards[0].path).is_file():
        source = recognize(spec, shards[0].path) if source in (None, "auto") else source
    elif not built:
        source = source or "preference"
    if source is not None:
        find_source(source)
    if not built:
        first = next(iter(shards[0].records()))[1]  # report a file that cannot be read at all now
        if isinstance(first, InputError) and not spec.skip_invalid:
            raise first
    shards = in_ranges(shards, source, spec.source_options())
    dataset = IterableDataset.from_generator(
        stream_rows,
        features=ranked_features(spec.format, free=True),  # later rows are not known
        gen_kwargs={"shards": shards, "reading": (spec, None if built else source, seed, set())},
    )
    return _with_origin(dataset, spec, shards)


def _with_origin(dataset: IterableDataset, spec: DatasetSpec, shards: list[Shard]) -> IterableDataset:
    kind = "whole" if Path(shards[0].path).is_file() else "given"
    dataset = mark_origin(dataset, spec.path, spec.split if len(shards[0].split or "") else None, kind)
    files = {shard.path for shard in shards if Path(shard.path).is_file()}
    dataset.info.dataset_size = sum(Path(file).stat().st_size for file in files)
    dataset.reads_ranges = any(shard.lines for shard in shards)
    return dataset


def stream_rows(
    shards: list[Shard], reading: tuple[DatasetSpec, str | None, int, set[tuple[str, str]]]
) -> Iterator[dict[str, Any]]:
    """
    Yields clean ranked rows.

    Args:
        shards (`list[Shard]`): Read in this order; `datasets` gives each process its own.
        reading (`tuple`): Spec, source (`None` for rows that `build-data` wrote), seed of the fraction, and the notes
            on each file.
    """
    spec, source, seed, told = reading
    for shard in shards:
        for row in _built_rows(shard, spec) if source is None else _raw_rows(shard, spec, source, told):
            if spec.fraction == 1 or in_fraction(row["prompt_id"], spec.fraction, seed):
                yield from clean_row(row, spec.layout or "ranked")


def _raw_rows(shard: Shard, spec: DatasetSpec, source: str, told: set[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    options = spec.source_options()
    for row in generate_rows(source, (shard,), options, spec.format, spec.skip_invalid, free=True):
        problem, notes = row.pop("_invalid"), row.pop("_notes")
        for said in {(shard.path, note) for note in (notes.split("\n") if notes else ())} - told:
            told.add(said)
            logger.warning("%s: %s", *said)
        if problem is not None:
            logger.warning("left out: %s", problem)
        elif row["prompt_id"] is not None:
            yield row


def _built_rows(shard: Shard, spec: DatasetSpec) -> Iterator[dict[str, Any]]:
    empty = dict.fromkeys(ranked_features(spec.format, free=True))
    for place, row in shard.records():
        if spec.format == "text":
            refuse_template_columns(row)
        try:
            if "completions" in row:
                ranked_scores(row["completions"], row["scores"], place)
            else:
                scores = label_scores(row["score_chosen"], row["score_rejected"], place)
                row = {**row, "completions": [row["chosen"], row["rejected"]], "scores": scores}
        except InputError as error:
            if not spec.skip_invalid:
                raise
            logger.warning("left out: %s", error)
            continue
        row = {**empty, **{name: row.get(name) for name in empty}}
        found = "text" if isinstance(row["completions"][0], str) else "chat"
        if found != spec.format:
            row["prompt"], row["completions"] = convert_row(row["prompt"], row["completions"], spec.format)
        yield row


def mix_streams(streams: Mapping[str, IterableDataset], seed: int) -> IterableDataset:
    """
    Mixes streams: each row once per pass, the sources in turn, or weighted by file size if all are files.

    Args:
        streams (`dict[str, datasets.IterableDataset]`): From [`open_stream`].
        seed (`int`): Seed of the mixture.
    """
    from datasets import interleave_datasets

    parts = list(streams.values())
    if len(parts) == 1:
        return parts[0]
    sizes = [part.info.dataset_size or 0 for part in parts]
    shares = [size / sum(sizes) for size in sizes] if all(sizes) else None
    mixed = interleave_datasets(
        parts, probabilities=shares, seed=seed, stopping_strategy="all_exhausted_without_replacement"
    )
    mixed.reads_ranges = any(getattr(part, "reads_ranges", False) for part in parts)
    return mixed


class OverlapWatch:
    """
    Checks the training rows as they are read: a prompt that is also in a test set stops the run, or is counted if that
    is allowed.

    Args:
        streams (`dict[str, datasets.IterableDataset]`): The training data.
        evaluation (`dict[str, datasets.Dataset]`): The test sets; all their `prompt_id` are kept in memory.
        allow_overlap (`bool`): Count and continue, as with a split by the data's authors.
    """

    def __init__(
        self,
        streams: Mapping[str, IterableDataset],
        evaluation: Mapping[str, Dataset],
        allow_overlap: bool = False,
    ):
        self.counts = dict.fromkeys(evaluation, 0)
        self._names: dict[str, list[str]] = {}
        for name, dataset in evaluation.items():
            for prompt in dataset.unique("prompt_id"):
                self._names.setdefault(prompt, []).append(name)
        self._allowed = {
            name: allow_overlap or all(authors_split(dataset, stream) for stream in streams.values())
            for name, dataset in evaluation.items()
        }

    def __call__(self, row: Mapping[str, Any]) -> None:
        for name in self._names.get(row.get("prompt_id"), ()):
            self.counts[name] += 1
            if not self._allowed[name]:
                raise InputError(
                    f"a training row has the prompt of a row of eval set '{name}' ('{shorten_prompt(row)}'). Remove "
                    f"it from one side, or pass --allow-overlap and resume from the last checkpoint."
                )
