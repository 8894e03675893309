"""The datasets of a run: loaded by name from files, folders or the Hub, whole or in part; no prompt is on both sides."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, name_list
from ..output.json_files import load_json
from ..output.places import about
from .build import INFO_FILE, BuildOptions, clean, nothing_left
from .fingerprints import derived
from .id_rows import holds_ids, id_columns, load_id_rows
from .inputs import resolve_inputs
from .leakage import check_overlap, mark_origin
from .messages import TEMPLATE_COLUMNS, null_stripper
from .pair_columns import complete_columns, drop_empty_columns
from .pairs import pairs_to_ranked, ranked_to_pairs
from .recognition import AUTO, recognize, source_named
from .records import Place, RecordFile, looks_like_hub_id, missing_file, open_dataset
from .rows import count_invalid, count_notes, placed_rows, read_rows, valid_rows
from .schema import describe, features_like, find_format, find_shape, has_free_messages
from .specs import DatasetSpec
from .splits import split_by_prompt, take_fraction
from .streams import open_stream
from .templates import convert_row, refuse_template_columns
from .usable import usable_rows


if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

    from .sources import Source


logger = logging.getLogger(__name__)

__all__ = ["DatasetSpec", "check_overlap", "load_datasets"]


def load_datasets(
    specs: Mapping[str, str | Mapping[str, Any] | DatasetSpec],
    split: str,
    *,
    seed: int = 0,
    cache_dir: str | None = None,
    format: str = "text",
    layout: str | None = None,
    num_proc: int | None = None,
    streaming: bool = False,
) -> dict[str, Dataset | IterableDataset]:
    """
    Loads the named datasets of a run.

    Args:
        specs (`dict[str, str | dict]`): Name -> `DatasetSpec`, its keys in a dict, or `PATH` / `PATH:FRACTION`.
        split (`str`): `train` or `test`; a spec's own `split` has priority. A single raw file is used whole.
        seed (`int`): Seed of the fractions, and of splits made here (`test_size`).
        cache_dir (`str`, *optional*): Cache for raw files; default: that of `datasets`.
        format (`str`): `text` or `chat`; datasets built in the other one are converted.
        layout (`str`, *optional*): `pairs` or `ranked`. Default: built folders as they are, raw files as ranked rows.
        num_proc (`int`, *optional*): Processes for the work on rows.
        streaming (`bool`): Open all of them as streams; also done if one spec says `streaming`.

    Returns:
        `dict[str, datasets.Dataset]`: Pairs or ranked rows, see `schema`; streams are `IterableDataset`, ranked rows.

    Raises:
        `InputError`: naming the dataset that cannot be loaded.
    """
    if not isinstance(specs, Mapping):
        raise InputError(f"datasets must be given by name (NAME: PATH), got {describe(specs)}.")
    loaded: dict[str, Dataset | IterableDataset] = {}
    parsed = {name: DatasetSpec.parse(value, name) for name, value in specs.items()}
    streamed = [name for name, spec in parsed.items() if spec.streaming]
    if streamed and split == "test":
        raise InputError(f"dataset '{streamed[0]}': test sets are evaluated whole; leave out `streaming`.")
    streaming = bool(streamed) or streaming
    for name, spec in parsed.items():
        spec = replace(spec, format=spec.format or format, layout=spec.layout or layout, split=spec.split or split)
        try:
            if streaming:
                loaded[name] = open_stream(spec, spec.source, _recognize, seed)
            else:
                with about(cache_dir):
                    loaded[name] = _load(spec, seed, cache_dir, num_proc)
        except InputError as error:
            raise InputError(f"dataset '{name}': {error}") from error
    return loaded


def _load(spec: DatasetSpec, seed: int, cache_dir: str | None, num_proc: int | None) -> Dataset:
    if holds_ids(spec):
        return load_id_rows(spec, seed, cache_dir)
    opened = _open(spec)
    if not isinstance(opened, DatasetSpec) and id_columns(opened.column_names):  # of the Hub
        return load_id_rows(spec, seed, cache_dir)
    if isinstance(opened, DatasetSpec):
        return _load_raw(opened, seed, cache_dir, num_proc)
    dataset = take_fraction(_convert(_usable(opened, spec), spec, num_proc), spec.fraction, seed)
    return mark_origin(dataset, spec.path, spec.split, _built_split(spec.path))


def read_uncleaned(
    spec: DatasetSpec, split: str, *, seed: int = 0, cache_dir: str | None = None, num_proc: int | None = None
) -> Dataset:
    """
    Reads one dataset as it is, without cleaning, for inspection.

    Args:
        spec (`DatasetSpec`): Its `fraction` and `layout` are not used.
        split (`str`): Used if the spec names none and the input has splits.
        seed (`int`): Seed of a split made here (`test_size`).
        cache_dir (`str`, *optional*): Cache for raw files.
        num_proc (`int`, *optional*): Processes for the work on rows.

    Returns:
        `datasets.Dataset`: Ranked rows of a raw file; pairs or ranked rows of a built folder, as stored.

    Raises:
        `InputError`: if the dataset cannot be read.
    """
    spec = replace(spec, split=spec.split or split)
    opened = _open(spec)
    if not isinstance(opened, DatasetSpec):
        return _usable(opened, spec)
    with about(cache_dir):
        return _read_raw(replace(opened, format=opened.format or "text"), seed, cache_dir, num_proc)[0]


def _usable(dataset: Dataset, spec: DatasetSpec) -> Dataset:
    """The rows of a built dataset that state a preference: the dataset may have been changed since it was built."""
    file = _place_of(spec)
    rows, invalid = usable_rows(dataset, lambda number: Place(file, "row", number), skip_invalid=spec.skip_invalid)
    if invalid:
        logger.info("%s: %d rows kept, left out: %s", spec.path, len(rows), {"invalid": invalid})
    return rows


def _place_of(spec: DatasetSpec) -> str:
    return f"{spec.path}, split '{spec.split}'" if spec.split else spec.path


def _open(spec: DatasetSpec) -> Dataset | DatasetSpec:
    """Returns a built dataset, or the spec of a raw one with its source."""
    source = spec.source
    if Path(spec.path).is_file():
        source = _recognize(spec, spec.path) if source in (None, AUTO) else source
    elif source is None:
        if not Path(spec.path).exists() and not looks_like_hub_id(spec.path):
            raise missing_file(spec.path)
        dataset = open_dataset(spec.path, spec.split)
        if find_shape(dataset.column_names) is not None or id_columns(dataset.column_names):
            return dataset
        source = "preference"
    return replace(spec, source=source)


def _read_raw(
    spec: DatasetSpec, seed: int, cache_dir: str | None, num_proc: int | None
) -> tuple[Dataset, BuildOptions, str, int]:
    """
    Returns the ranked rows of a raw input before cleaning, how they were read, who made their split, and how many
    records could not be used.
    """
    options = BuildOptions(
        **vars(spec.source_options()),
        layout=spec.layout or "ranked",
        format=spec.format,
        test_size=spec.test_size,
        seed=seed,
        num_proc=num_proc,
    )
    source, files, origin = _raw_files(spec, options)
    rows = read_rows(source, files, options, format=spec.format, skip_invalid=spec.skip_invalid, cache_dir=cache_dir)
    invalid = count_invalid(rows)
    for note, number in count_notes(rows).items():
        logger.warning("%s: %d %s", spec.path, number, note)
    rows = valid_rows(rows)
    if origin == "whole" and spec.test_size:
        origin = "made"
        train, test = split_by_prompt(rows, spec.test_size, seed)
        rows = test if spec.split == "test" else train
    return rows, options, origin, invalid


def _raw_files(spec: DatasetSpec, options: BuildOptions) -> tuple[Source, list[RecordFile], str]:
    source = source_named(spec.source, [spec.path], options)
    options.check_for(source)
    parts = resolve_inputs(source, [spec.path], options)
    origin = "whole" if "" in parts else "given"
    if origin == "given" and spec.split not in parts:
        raise InputError(f"{spec.path}: there is no split '{spec.split}', only {name_list(parts)}; set `split: …`.")
    return source, parts.get("") or parts[spec.split], origin


def find_rows(spec: DatasetSpec, split: str, *, format: str = "text") -> Iterator[tuple[Place, Mapping[str, Any]]]:
    """
    Yields the rows of one dataset in the order of its files, each with its place.

    Args:
        spec (`DatasetSpec`): Its `fraction` and its `test_size` are not used.
        split (`str`): Used if the spec names none and the input has splits.
        format (`str`): `text` or `chat`, for a raw input.
    """
    spec = replace(spec, format=spec.format or format, split=spec.split or split)
    opened = _open(spec)
    if isinstance(opened, DatasetSpec):
        options = BuildOptions(**vars(spec.source_options()), format=spec.format)
        source, files, _ = _raw_files(opened, options)
        yield from placed_rows(source, files, options, spec.format)
        return
    for number, row in enumerate(map(null_stripper(opened.features) or dict, opened), 1):
        yield Place(_place_of(spec), "row", number), row


def _load_raw(spec: DatasetSpec, seed: int, cache_dir: str | None, num_proc: int | None) -> Dataset:
    rows, options, origin, invalid = _read_raw(spec, seed, cache_dir, num_proc)
    dataset, counts = clean(rows, options)
    counts.read, counts.invalid = len(rows) + invalid, invalid
    if not counts.kept:
        raise nothing_left(spec.path, spec.split, counts)
    lost = {
        key: value
        for key, value in counts.as_dict().items()
        if value and key not in ("read", "rows", "kept", "tied_rows")
    }
    if lost:
        logger.info("%s: %d rows kept, left out: %s", spec.path, counts.kept, lost)
    dataset = take_fraction(dataset, spec.fraction, seed)
    return mark_origin(dataset, spec.path, None if origin == "whole" else spec.split, origin)


def _recognize(spec: DatasetSpec, path: str) -> str:
    """Returns the source that reads the form of a file, and logs it."""
    form = recognize(RecordFile(path), spec.source_options())
    if form.source not in ("text-score", "preference"):  # these can be read in only one way
        logger.warning("%s: read as %s (source: %s): %s", path, form.name, form.source, form.reads)
    return form.source


def _convert(dataset: Dataset, spec: DatasetSpec, num_proc: int | None) -> Dataset:
    """Converts a built dataset to the requested shape and format."""
    found = find_shape(dataset.column_names)
    if spec.layout not in (None, found):
        dataset = ranked_to_pairs(dataset, num_proc) if found == "ranked" else pairs_to_ranked(dataset)
    if find_format(dataset.features) != spec.format:
        shape = find_shape(dataset.column_names)
        if spec.format == "text":
            dataset = _without_template_columns(dataset)
        names = ("chosen", "rejected") if shape == "pairs" else ("completions",)
        free = has_free_messages(dataset.features)
        completed = complete_columns(dataset, features_like(dataset.features, shape))
        dataset = completed.remove_columns(list(TEMPLATE_COLUMNS)) if free else completed
        dataset = dataset.map(
            _convert_batch,
            batched=True,
            features=features_like(dataset.features, shape, spec.format),
            fn_kwargs={"names": names, "data_format": spec.format},
            num_proc=num_proc,
            new_fingerprint=derived(dataset, spec.format),
            desc=f"Converting to {spec.format}",
        )
        dataset = drop_empty_columns(dataset)
    return dataset


def _without_template_columns(dataset: Dataset) -> Dataset:
    """Removes the columns that only a chat template reads, if no row has a value in them."""
    names = [name for name in TEMPLATE_COLUMNS if name in dataset.column_names]
    for row in dataset.select_columns(names) if names else ():
        refuse_template_columns(row)
    return dataset.remove_columns(names)


def _convert_batch(batch: dict[str, list], names: tuple[str, ...], data_format: str) -> dict[str, list]:
    out: dict[str, list] = {"prompt": [], **{name: [] for name in names}}
    for n, prompt in enumerate(batch["prompt"]):
        ranked = names == ("completions",)
        texts = batch["completions"][n] if ranked else [batch[name][n] for name in names]
        prompt, texts = convert_row(prompt, texts, data_format)
        out["prompt"].append(prompt)
        for name, value in zip(names, [texts] if ranked else texts):
            out[name].append(value)
    return out


def _built_split(path: str) -> str:
    """Returns whether the split of a built folder was `made` here, `given` by its authors or `none`."""
    try:
        return load_json(Path(path) / INFO_FILE)["split"]
    except FileNotFoundError:
        return "given"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{Path(path) / INFO_FILE}: cannot be read ({error}). Build the folder again.") from error
