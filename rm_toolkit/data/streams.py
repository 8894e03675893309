"""The training data of a recipe as streams: files, built folders and Hub datasets read row by row, shard by shard."""

from __future__ import annotations

import glob
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, class_and_line, name_list
from .cleaning import clean_row
from .id_rows import check_spec, first_has_ids, id_features, stream_id_rows
from .leakage import authors_split, mark_origin, shorten_prompt
from .messages import null_stripper
from .pairing import label_scores, ranked_scores
from .records import Place, RecordFile, is_saved_dataset, looks_like_hub_id, missing_file, open_dataset, read_records
from .rows import generate_rows
from .schema import find_shape, ranked_features
from .sources import SourceOptions, find_source
from .specs import DatasetSpec
from .splits import in_fraction
from .templates import convert_row, refuse_template_columns


if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset


logger = logging.getLogger(__name__)

FILE_ENDINGS = ("jsonl", "jsonl.gz", "json.gz", "parquet", "csv", "tsv")
# Rows of a shard of a built folder: enough shards for any number of processes, and another order in every pass.
ROWS_PER_SHARD = 1000


@dataclass(frozen=True)
class Shard(RecordFile):
    """
    A part of one input that is read by itself, in order.

    Args:
        index (`int`): Which part of the saved or Hub dataset.
        of (`int`): Into how many parts it is split; a file is one shard.
        remote (`bool`): Whether it is read from the Hub row by row.
    """

    index: int = 0
    of: int = 1
    remote: bool = False

    def records(self) -> Iterator[tuple[Place, Any]]:
        """Yields the records of the shard, each with its place."""
        if Path(self.path).is_file():
            yield from read_records(RecordFile(self.path))
            return
        if self.remote:
            dataset = open_remote(self.path, self.split).shard(self.of, self.index)
            name, first = f"{self.path}, shard {self.index + 1} of {self.of}", 1
        else:
            dataset = open_dataset(self.path, self.split)
            first = 1 + (len(dataset) * self.index) // self.of
            dataset = dataset.select(range(first - 1, (len(dataset) * (self.index + 1)) // self.of))
            name = self.path
        strip = null_stripper(dataset.features)
        for number, row in enumerate(dataset, first):
            yield Place(name, "row", number), strip(row) if strip else row


def open_stream(
    spec: DatasetSpec, source: str | None, recognize: Callable[[DatasetSpec, str], str], seed: int
) -> IterableDataset:
    """
    Opens one dataset of a recipe as a stream of ranked rows. Nothing but the first record is read.

    Texts are cleaned as far as one row shows: empty and repeated texts go. Duplicate rows stay, since only the whole
    data would show them, and a fraction of the prompts is right on average only.

    Args:
        spec (`DatasetSpec`): With its `split` and `format`.
        source (`str`, *optional*): Raw format; found by itself for text-score files and built datasets.
        recognize (`Callable`): Finds the source of a raw file by its form.
        seed (`int`): Seed of the fraction.

    Raises:
        `InputError`: for whatever cannot be streamed.
    """
    from datasets import IterableDataset

    if spec.test_size:
        raise InputError(
            "`test_size` needs the whole data, which a stream never has. Split with `rm-toolkit build-data`."
        )
    shards, built = _shards(spec, source)
    if not built and source in (None, "auto", "preference") and first_has_ids(shards):
        check_spec(spec)
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
        first = next(iter(shards[0].records()))[1]  # a file that cannot be read at all is better found now
        if isinstance(first, InputError) and not spec.skip_invalid:
            raise first
    dataset = IterableDataset.from_generator(
        stream_rows,
        features=ranked_features(spec.format, free=True),  # what is in later rows is not known
        gen_kwargs={"shards": shards, "reading": (spec, None if built else source, seed)},
    )
    return _with_origin(dataset, spec, shards)


def _with_origin(dataset: IterableDataset, spec: DatasetSpec, shards: list[Shard]) -> IterableDataset:
    kind = "whole" if Path(shards[0].path).is_file() else "given"
    dataset = mark_origin(dataset, spec.path, spec.split if len(shards[0].split or "") else None, kind)
    dataset.info.dataset_size = sum(Path(shard.path).stat().st_size for shard in shards if Path(shard.path).is_file())
    return dataset


def _shards(spec: DatasetSpec, source: str | None) -> tuple[list[Shard], bool]:
    """The shards of a spec, and whether they hold rows that `build-data` wrote."""
    path = Path(spec.path)
    if path.is_file():
        return [Shard(spec.path)], False
    if glob.has_magic(spec.path):
        files = sorted(name for name in glob.glob(spec.path, recursive=True) if Path(name).is_file())
        if not files:
            raise InputError(f"{spec.path}: no file matches. Check the pattern.")
        return [Shard(name) for name in files], False
    if path.is_dir() and not is_saved_dataset(spec.path):
        return [Shard(name) for name in _files_of_folder(spec, source)], False
    if path.exists():
        dataset = open_dataset(spec.path, spec.split)
        of = -(-len(dataset) // ROWS_PER_SHARD) or 1
        return [Shard(spec.path, spec.split, k, of) for k in range(of)], find_shape(dataset.column_names) is not None
    if not looks_like_hub_id(spec.path):
        raise missing_file(spec.path)
    dataset = open_remote(spec.path, spec.split)
    of = dataset.num_shards
    built = find_shape(dataset.column_names or []) is not None
    return [Shard(spec.path, spec.split, k, of, remote=True) for k in range(of)], built


def _files_of_folder(spec: DatasetSpec, source: str | None) -> list[str]:
    if source is not None and find_source(source).find_files is not None:
        found = find_source(source).find_files(spec.path, SourceOptions(domain=spec.domain))
        files = [file for split, file in found if split in ("", spec.split)]
    else:
        files = sorted(str(file) for ending in FILE_ENDINGS for file in Path(spec.path).glob(f"*.{ending}"))
    if not files:
        raise InputError(
            f"{spec.path}: this folder holds no saved dataset and no {name_list(FILE_ENDINGS)} file for the split "
            f"'{spec.split}'. Give a folder of shards, a pattern like DIR/*.jsonl, or a file."
        )
    return files


def open_remote(name: str, split: str | None) -> IterableDataset:
    """
    Opens a dataset of the Hub without downloading it.

    Raises:
        `InputError`: if the Hub gives none of that name and split.
    """
    import datasets

    try:
        return datasets.load_dataset(name, split=split or "train", streaming=True)
    except Exception as error:  # offline, unknown, gated, several configurations: each has its own class
        raise InputError(
            f"'{name}' is no file or folder here, and the Hub gave no split '{split or 'train'}' of that name to stream "
            f"({class_and_line(error)}). Check the spelling, or the connection and the login (`hf auth login`)."
        ) from error


def stream_rows(shards: list[Shard], reading: tuple[DatasetSpec, str | None, int]) -> Iterator[dict[str, Any]]:
    """
    Yields clean ranked rows.

    Args:
        shards (`list[Shard]`): Read in this order; `datasets` gives each process its own.
        reading (`tuple`): Spec, source (None for rows that `build-data` wrote) and seed of the fraction.
    """
    spec, source, seed = reading
    for shard in shards:
        for row in _built_rows(shard, spec) if source is None else _raw_rows(shard, spec, source):
            if spec.fraction == 1 or in_fraction(row["prompt_id"], spec.fraction, seed):
                yield from clean_row(row, spec.layout or "ranked")


def _raw_rows(shard: Shard, spec: DatasetSpec, source: str) -> Iterator[dict[str, Any]]:
    options = spec.source_options()
    told: set[str] = set()
    for row in generate_rows(source, (shard,), options, spec.format, spec.skip_invalid, free=True):
        problem, notes = row.pop("_invalid"), row.pop("_notes")
        for note in set(notes.split("\n") if notes else ()) - told:
            told.add(note)
            logger.warning("%s: %s", shard.path, note)
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
    Puts streams together: each row once a pass, the sources in turn, or by the sizes of their files where all are files.

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
    return interleave_datasets(
        parts, probabilities=shares, seed=seed, stopping_strategy="all_exhausted_without_replacement"
    )


class OverlapWatch:
    """
    Looks at the training rows as they pass: a prompt that also stands in a test set stops the run, or is counted where
    that is allowed.

    Args:
        streams (`dict[str, datasets.IterableDataset]`): What is trained on.
        evaluation (`dict[str, datasets.Dataset]`): The test sets; all their `prompt_id` are kept in memory.
        allow_overlap (`bool`): Count and go on, as where data's authors drew the line themselves.
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
                    f"a training row has the prompt of a row of eval set '{name}' ('{shorten_prompt(row)}'). Drop it from "
                    "one side, or pass --allow-overlap and resume from the last checkpoint."
                )
