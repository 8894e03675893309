"""How a recipe names a dataset: a path, or a path with options."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import yaml

from ..errors import InputError, did_you_mean, name_list, one_line
from ..output.nested_ranges import Keys, ListOf
from ..output.ranges import Choice, Text
from ..output.stated_ranges import check_ranges, ranges_of
from ..output.strict_yaml import said, strict_yaml
from .number_ranges import FRACTION, SCORE_RATIO, TEST_SIZE
from .schema import FORMATS, SHAPES, describe
from .sources import SourceOptions


@dataclass(frozen=True)
class DatasetSpec:
    """
    One dataset of a run, as written in a recipe: a string `PATH` or `PATH:FRACTION`, or a mapping with these keys.

    Args:
        path (`str`): A folder that `build-data` wrote, a text-score file, a raw file with its `source`, or a Hub id.
        source (`str`, *optional*): Raw format of the file; known forms are recognized without it (as with `auto`).
        split (`str`, *optional*): Split to use instead of the one that the run asks for.
        domain (`str`, *optional*): For `dsp`, whose answers are preferred; else a tag of the rows.
        layout (`str`, *optional*): `pairs` or `ranked`. Default: as built; raw files become ranked rows.
        format (`str`, *optional*): `text` or `chat`. Default: that of the run.
        fraction (`float`): Fraction of the prompts to use, in (0, 1].
        test_size (`float`): Raw files only: hold out this fraction of the prompts (below 1) or this many of them as
            split `test`, with the run's seed; 0 uses the whole file for any split.
        columns (`dict[str, str]`, *optional*): For `jsonl` and `preference`: our column -> its name in the file.
        ignore_columns (`list[str]`, *optional*): Raw files only: columns to ignore, as if they were not there.
        template (`str`, *optional*): `human-assistant` or `none`, around plain-text prompts.
        strip_citations (`bool`): For `webgpt`: remove marks like `[1]`.
        skip_invalid (`bool`): Leave out records that cannot be used.
        label (`str`, *optional*): Which of several columns says which response is better.
        min_score_ratio (`float`, *optional*): For `shp`: leave out rows whose score ratio is below this.
        drop_contradictions (`bool`): For `ultrafeedback`: leave out scores that contradict their own ratings.
        streaming (`bool`): Training data only: read row by row while training, without loading it whole; needs
            `max_steps`. `path` may then be a folder of shards or a pattern like `DIR/*.jsonl`.
    """

    path: Annotated[str, Text(empty=False)]
    source: str | None = None
    split: str | None = None
    domain: str | None = None
    layout: Annotated[str | None, Choice(SHAPES)] = None
    format: Annotated[str | None, Choice(FORMATS)] = None
    fraction: Annotated[float, FRACTION] = 1.0
    test_size: Annotated[float, TEST_SIZE] = 0.0
    columns: Annotated[dict[str, str] | None, Keys()] = None
    template: str | None = None
    strip_citations: bool = False
    skip_invalid: bool = False
    streaming: bool = False
    ignore_columns: Annotated[Sequence[str] | None, ListOf(Text(empty=False))] = None
    label: str | None = None
    min_score_ratio: Annotated[float | None, SCORE_RATIO] = None
    drop_contradictions: bool = False

    @classmethod
    def parse(cls, value: str | Mapping[str, Any] | DatasetSpec, name: str) -> DatasetSpec:
        """
        Reads one entry of `train_datasets` or `eval_datasets`.

        Args:
            value (`str` or mapping): The entry in the recipe.
            name (`str`): Name of the dataset, for the errors.

        Raises:
            `InputError`: for an unknown key, a missing path or a value out of range.
        """
        if isinstance(value, DatasetSpec):
            value._check(name)
            return value
        if isinstance(value, str):
            value = _parse_shorthand(value)
        if not isinstance(value, Mapping):
            raise InputError(f"dataset '{name}': expected a path or keys like `path: …`, got {describe(value)}.")
        known = [entry.name for entry in fields(cls)]
        for key in value:
            if key not in known:
                raise InputError(
                    f"dataset '{name}': there is no key '{key}', only {name_list(known)}.{did_you_mean(key, known)}"
                )
        spec = cls(**{"path": None, **value})
        spec._check(name)
        return spec

    def source_options(self) -> SourceOptions:
        """Returns the options for reading a source."""
        return SourceOptions(
            domain=self.domain,
            columns=dict(self.columns or {}),
            ignore_columns=tuple(self.ignore_columns or ()),
            strip_citations=self.strip_citations,
            template=self.template,
            label=self.label,
            min_score_ratio=self.min_score_ratio,
            drop_contradictions=self.drop_contradictions,
        )

    def _check(self, name: str) -> None:
        if not isinstance(self.path, str) or not self.path:
            raise InputError(
                f"dataset '{name}': `path` must be a file, a built folder or a Hub id, got {describe(self.path)}."
            )
        check_ranges(self, f"dataset '{name}': ", _RANGES)
        columns = self.columns
        if columns is not None and not (isinstance(columns, Mapping) and _are_strings(columns.values())):
            shown = describe(columns)
            if isinstance(columns, Mapping):
                shown = ", ".join(f"{ours}: {describe(theirs)}" for ours, theirs in columns.items())
            raise InputError(f"dataset '{name}': `columns` must map our names to the file's, got {shown}.")
        names = self.ignore_columns
        if names is not None and not (isinstance(names, list | tuple) and _are_strings(names)):
            raise InputError(
                f"dataset '{name}': `ignore_columns` must be a list of names like [input], got {describe(names)}."
            )


_RANGES = ranges_of(DatasetSpec)


def _are_strings(values: Iterable[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def parse_named_specs(items: Sequence[str], flag: str) -> dict[str, str | dict[str, Any]]:
    """
    Parses `NAME=SPEC …` of a command line; a SPEC in braces is a mapping as in a recipe: `'{path: FILE, source:
    dsp}'`.

    Args:
        items (`Sequence[str]`): The arguments.
        flag (`str`): Their flag, for the errors.

    Raises:
        `InputError`: for an argument without a name, a name that is given twice, or braces that are not a mapping.
    """
    specs: dict[str, str | dict[str, Any]] = {}
    for item in items:
        name, equals, text = item.partition("=")
        if not (name.strip() and equals and text.strip()) or name.lstrip().startswith("{"):
            raise InputError(f"{flag}: '{item}' is not NAME=SPEC. Example: {flag} helpful=outputs/data/helpful")
        if name in specs:
            raise InputError(f"{flag}: the name '{name}' is given twice; give each dataset its own.")
        specs[name] = parse_spec(text, f"{flag} {name}")
    return specs


def parse_spec(text: str, where: str) -> str | dict[str, Any]:
    """
    Parses one SPEC of a command line: a path, `PATH:FRACTION`, or a mapping in braces.

    Args:
        text (`str`): The SPEC.
        where (`str`): Its flag or dataset, for the error.

    Raises:
        `InputError`: for braces that are not a mapping.
    """
    if not text.lstrip().startswith("{"):
        return text
    try:
        value = strict_yaml(text)
    except yaml.YAMLError as error:
        raise InputError(f"{where}: '{one_line(text, 200)}' is not a mapping ({said(error)}).") from error
    if None in value.values():
        key = next(key for key, content in value.items() if content is None)
        raise InputError(f"{where}: '{text}': '{key}' has no value; write 'KEY: VALUE' with a space after the colon.")
    return value


def _parse_shorthand(text: str) -> dict[str, Any]:
    """Parts `PATH:FRACTION`."""
    path, colon, fraction = text.rpartition(":")
    if colon and not Path(text).exists():
        try:
            return {"path": path, "fraction": float(fraction)}
        except ValueError:
            pass
    return {"path": text}
