"""A source: a name, a function from one raw record to one row, and the options that it accepts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

from ...errors import InputError
from ...output.nested_ranges import Keys, ListOf
from ...output.ranges import Choice, Text
from ..number_ranges import SCORE_RATIO
from ..records import Place
from ..schema import RawRow
from ..templates import TEMPLATES


DEFAULT_DOMAIN = "general"

Record = dict[str, Any]
Records = Iterator[tuple[Place, "Record | InputError"]]


@dataclass(frozen=True)
class SourceOptions:
    """
    Options for reading a source.

    Args:
        domain (`str`, *optional*): For `dsp`, whose answers are preferred; for the others, a tag of the rows (default:
            `general`, or the source's own value).
        columns (`dict[str, str]`): For `jsonl` and `preference`: our name of a column -> its name in the file.
        strip_citations (`bool`): For `webgpt`: remove marks like `[1]` from the answers.
        template (`str`, *optional*): `human-assistant` or `none`: text put around a plain-text prompt in the text
            format. Default: that of the source.
        ignore_columns (`tuple[str, ...]`): Columns to ignore, as if the file did not have them.
        label (`str`, *optional*): The column (question) to read, if several say which response is better.
        min_score_ratio (`float`, *optional*): For `shp`: leave out rows whose score ratio is below this.
        drop_contradictions (`bool`): For `ultrafeedback`: leave out completions whose score contradicts its own ratings.
    """

    domain: str | None = None
    columns: Annotated[dict[str, str], Keys()] = field(default_factory=dict)
    strip_citations: bool = False
    template: Annotated[str | None, Choice(TEMPLATES)] = None
    ignore_columns: Annotated[tuple[str, ...], ListOf(Text(empty=False))] = field(default=(), kw_only=True)
    label: str | None = field(default=None, kw_only=True)
    min_score_ratio: Annotated[float | None, SCORE_RATIO] = field(default=None, kw_only=True)
    drop_contradictions: bool = field(default=False, kw_only=True)


# Options that only some sources read.
SPECIAL_OPTIONS = ("columns", "strip_citations", "label", "min_score_ratio", "drop_contradictions")


class LeftOut(InputError):
    """A row that an option leaves out: not an error, only counted. Its message is worded for "NUMBER …"."""


@dataclass(frozen=True)
class Source:
    """
    One raw format.

    Args:
        name (`str`): The name on the command line, and the `source` tag of the rows.
        summary (`str`): One line for the help text and the errors.
        row: Turns one record into a `RawRow`; raises the `InputError` of the `Place` for a record that it cannot use.
        template (`str`, *optional*): Default template of a plain-text prompt; `None` if the texts have their own
            markers.
        join: Merges neighboring records if one row is spread over several; `None` if each record is one row.
        joins: Whether a record has a form that `join` merges; `None` if any record may be merged.
        find_files: Lists `(split, file)` of a release folder; `None` if inputs are files.
        license (`str`, *optional*): License of the published data in this format, as the Hub names it.
        accepts (`tuple[str, ...]`): Names of the `SourceOptions` that apply, besides `domain` and `template`.
    """

    name: str
    summary: str
    row: Callable[[Record, Place, SourceOptions], RawRow]
    template: str | None = None
    join: Callable[[Records, SourceOptions], Records] | None = None
    joins: Callable[[Record, SourceOptions], bool] | None = None
    find_files: Callable[[str, SourceOptions], list[tuple[str, str]]] | None = None
    accepts: tuple[str, ...] = ()
    license: str | None = None
