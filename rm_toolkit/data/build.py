"""Raw preference data -> Arrow datasets: read, convert, split by prompt, clean and save in one step."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ..errors import InputError
from ..output.folders import check_output, written_whole
from ..output.places import about
from ..output.ranges import Choice, Number
from ..output.stated_ranges import check_ranges
from .cleaning import CleaningCounts, clean_pairs, clean_ranked
from .drop_list import DropList, read_drop_list
from .inputs import resolve_inputs
from .number_ranges import TEST_SIZE
from .pairs import with_same_messages
from .recognition import source_named
from .rows import count_invalid, count_notes, invalid_reasons, read_rows, valid_rows
from .schema import FORMATS, SHAPES, has_free_messages
from .sources import Source, SourceOptions
from .sources.base import SPECIAL_OPTIONS
from .sources.columns import check_columns
from .splits import split_by_prompt


if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict


INFO_FILE = "rm_toolkit_data.json"


@dataclass(frozen=True)
class BuildOptions(SourceOptions):
    """
    Options of a build.

    Args:
        layout (`str`): `pairs` or `ranked`.
        format (`str`): `text` or `chat`.
        test_size (`float`): If no split is given: fraction (below 1) or number of the prompts that go to test; 0
            makes no test split.
        seed (`int`): Seed of that split.
        skip_invalid (`bool`): Leave out records that cannot be used, and count them, instead of stopping at the first.
        num_proc (`int`, *optional*): Processes for the work on built rows.
        cache_dir (`str`, *optional*): Cache folder of `datasets`; default: its own.
        drop_pairs (`str`, *optional*): A reviewed list of pairs to leave out, see [`~rm_toolkit.data.drop_list`].
    """

    layout: Annotated[str, Choice(SHAPES)] = "pairs"
    format: Annotated[str, Choice(FORMATS)] = "text"
    test_size: Annotated[float, TEST_SIZE] = 0.1
    seed: Annotated[int, Number(0, 2**32 - 1, whole=True)] = 0
    skip_invalid: bool = False
    num_proc: Annotated[int | None, Number(1, 1024, whole=True)] = None
    cache_dir: str | None = None
    drop_pairs: str | None = None

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.drop_pairs and self.layout != "pairs":
            raise InputError(
                "`drop_pairs` leaves out pairs, but a ranked row implies several of them by the same scores. Build with the "
                "layout pairs."
            )

    def check_for(self, source: Source) -> None:
        """Raises an `InputError` for a setting that this source does not use."""
        for name in SPECIAL_OPTIONS:
            if getattr(self, name) not in (None, False, {}) and name not in source.accepts:
                raise InputError(f"Source '{source.name}' does not use `{name}`; remove it.")
        check_columns(self.columns)
        for ours, theirs in self.columns.items():
            if theirs.partition(".")[0] in self.ignore_columns or theirs in self.ignore_columns:
                raise InputError(
                    f"`ignore_columns` leaves out '{theirs}', which `columns` reads as {ours}; remove one."
                )
        if self.template == "human-assistant" and source.template is None:
            raise InputError(f"`template` cannot be set for '{source.name}': its texts have their own markers.")


@dataclass
class BuildResult:
    """
    The result of a build.

    Args:
        datasets (`datasets.DatasetDict`): `train` and `test`, as far as they exist.
        counts (`dict[str, CleaningCounts]`): Counts of each split.
        split (`str`): `given` by the data's authors, `made` here, or `none` (one input, not split).
        shared_prompts (`int`): Prompts that a given split has on both sides; 0 for one made here.
        info (`dict`): Content of the folder's info file.
        notes (`dict[str, dict[str, int]]`): What the source counted in each split; for a split made here, under
            `train`.
        drop_list (`DropList`, *optional*): Result of the list of pairs to leave out.
        left_out (`dict[str, list[str]]`): Place and reason of the first records of each split that could not be used;
            for a split made here, under `train`.
    """

    datasets: DatasetDict
    counts: dict[str, CleaningCounts]
    split: str
    shared_prompts: int = 0
    info: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, dict[str, int]] = field(default_factory=dict)
    drop_list: DropList | None = None
    left_out: dict[str, list[str]] = field(default_factory=dict)


def build(source_name: str, inputs: list[str], options: BuildOptions) -> BuildResult:
    """
    Builds the Arrow dataset of a source.

    Args:
        source_name (`str`): One of `SOURCES`, or `auto`: the one that reads the form of the inputs.
        inputs (`list[str]`): Paths or Hub ids; or `train=PATH` and `test=PATH` for a given split.
        options (`BuildOptions`): Settings.

    Raises:
        `InputError`: for anything wrong with the input, naming file and row; if a split is empty after cleaning.
    """
    from datasets import DatasetDict

    source = source_named(source_name, inputs, options)
    options.check_for(source)
    drop_list = read_drop_list(options.drop_pairs) if options.drop_pairs else None  # before the slow work begins
    parts = resolve_inputs(source, inputs, options)
    how = {"format": options.format, "skip_invalid": options.skip_invalid, "cache_dir": options.cache_dir}
    read = {name: read_rows(source, files, options, **how) for name, files in parts.items()}
    if len({has_free_messages(rows.features) for rows in read.values()}) > 1:  # both splits have the same columns
        read = {name: read_rows(source, files, options, **how, free=True) for name, files in parts.items()}
    split = "given"
    notes = {name: count_notes(rows) for name, rows in read.items()}
    invalid = {name: count_invalid(rows) for name, rows in read.items()}
    reasons = {name: invalid_reasons(rows, parts[name]) for name, rows in read.items()}
    left_out = {name: len(rows) - len(valid_rows(rows)) for name, rows in read.items()}
    if "" in read:
        rows = valid_rows(read.pop(""))
        split = "made" if options.test_size else "none"
        train, test = split_by_prompt(rows, options.test_size, options.seed) if options.test_size else (rows, None)
        read = {"train": train} if test is None else {"train": train, "test": test}
        for counted in (invalid, left_out, notes, reasons):
            counted["train"] = counted.pop("")
    datasets, counts = {}, {}
    for name, rows in read.items():
        valid = valid_rows(rows)
        with about(options.cache_dir):
            datasets[name], counts[name] = clean(valid, options)
        counts[name].invalid = invalid.get(name, 0)
        counts[name].read = len(valid) + left_out.get(name, 0)
        if not counts[name].kept:
            raise nothing_left(", ".join(inputs), name, counts[name])
    datasets = DatasetDict(zip(datasets, with_same_messages(list(datasets.values()))))
    if drop_list is not None:
        datasets = _without_listed(datasets, drop_list, counts)
    shared = 0
    if len(datasets) == 2:
        shared = len(set(datasets["train"].unique("prompt_id")) & set(datasets["test"].unique("prompt_id")))
    notes, reasons = ({name: told for name, told in all_of.items() if told} for all_of in (notes, reasons))
    return BuildResult(datasets, counts, split, shared, _info(source, inputs, options), notes, drop_list, reasons)


def _without_listed(datasets: DatasetDict, drop_list: DropList, counts: dict[str, CleaningCounts]) -> DatasetDict:
    """Leaves the pairs of a list out of cleaned data, and counts them."""
    datasets = drop_list.apply(datasets)
    for name, number in drop_list.dropped.items():
        counts[name].listed = number
        counts[name].kept -= number
    return datasets


def clean(rows: Dataset, options: BuildOptions) -> tuple[Dataset, CleaningCounts]:
    """Cleans valid ranked rows, in the requested shape."""
    cleaner = clean_pairs if options.layout == "pairs" else clean_ranked
    return cleaner(rows, num_proc=options.num_proc)


def nothing_left(inputs: str, split: str, counts: CleaningCounts) -> InputError:
    """Returns the error for a split that is empty after cleaning."""
    lost = {
        name: number for name, number in counts.as_dict().items() if number and name not in ("read", "rows", "kept")
    }
    reasons = ", ".join(f"{name} {number}" for name, number in lost.items()) or "nothing was in it"
    return InputError(
        f"{inputs}: the split '{split}' is empty after cleaning ({counts.read} records read; {reasons}). "
        "Give data in which one text is preferred over another."
    )


def _info(source: Source, inputs: list[str], options: BuildOptions) -> dict[str, Any]:
    settings = {
        name: value for name, value in asdict(options).items() if name not in ("num_proc", "cache_dir", "drop_pairs")
    }
    for name in ("ignore_columns", "label", "min_score_ratio", "drop_contradictions"):
        if not getattr(options, name):
            del settings[name]
    return {"source": source.name, "inputs": [_file_name(text) for text in inputs], "options": settings}


def _file_name(text: str) -> str:
    """Removes the folders from an input's path: a built dataset may be published, and local paths are private."""
    name, equals, path = text.rpartition("=")
    return name + equals + (Path(path).name if Path(path).exists() else path)


def check_built_folder(folder: Path, overwrite: bool) -> None:
    """Raises an `InputError` if `folder` cannot be written, see [`~rm_toolkit.output.folders.check_output`]."""
    check_output(folder, overwrite, marker=INFO_FILE, command="build-data")


def save(result: BuildResult, folder: Path, overwrite: bool = False, license: str | None = None) -> None:
    """
    Writes a built dataset to a folder: first to a temporary one beside it, which is renamed when complete.

    Args:
        result (`BuildResult`): Result of `build`.
        folder (`Path`): The folder to write.
        overwrite (`bool`): Replace a folder that an earlier build wrote.
        license (`str`, *optional*): License of the data, as given by the user.
    """
    check_built_folder(folder, overwrite)
    with written_whole(folder) as new:
        result.datasets.save_to_disk(new)
        counts = {name: numbers.as_dict() for name, numbers in result.counts.items()}
        info = {**result.info, "split": result.split, "shared_prompts": result.shared_prompts, "counts": counts}
        info |= {"notes": result.notes} if result.notes else {}
        info |= {"left_out": result.left_out} if result.left_out else {}
        info |= {"drop_pairs": result.drop_list.as_dict()} if result.drop_list is not None else {}
        info["license"] = license
        text = json.dumps(info, indent=2, ensure_ascii=False) + "\n"
        (new / INFO_FILE).write_text(text, encoding="utf-8")
