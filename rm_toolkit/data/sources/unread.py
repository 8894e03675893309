"""Reports every unread column that says which response is better or is part of the prompt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ...errors import InputError, name_list, one_line
from ..records import Place
from ..schema import RawRow
from .column_names import PROMPT_PARTS, WHOLE_PROMPTS, is_rank, may_matter, says_which, words_of
from .forms import fitting_forms


_SUMMED_UP = {"individual_preference": "overall_preference"}  # HelpSteer3: single votes, and their result
_ANSWERING = frozenset({"assistant", "gpt", "model", "chatbot", "bot"})


class UnreadColumn(InputError):
    """A column with a preference or a prompt was not read; this is never skipped as an invalid row."""


class ReadRecord(dict):
    """
    A raw record that remembers which of its columns were read.

    Args:
        record (`dict`): The record.
        ignored (`Iterable[str]`): Columns to ignore, as if they were not there.
    """

    def __init__(self, record: dict[str, Any], ignored: Iterable[str] = ()):
        super().__init__({name: value for name, value in record.items() if name not in ignored})
        self.ignored = frozenset(ignored)
        self.read: set[str] = set()  # dotted if a part of an object was read

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.read.add(name)
        return super().get(name, default)


def check_all_read(record: ReadRecord, row: RawRow, place: Place, *, mappable: bool) -> None:
    """
    Refuses a record with a preference or a part of its prompt in a column that was not read.

    Args:
        record (`ReadRecord`): The record, after its source has read it.
        row (`RawRow`): The row that the source made.
        place (`Place`): Its place.
        mappable (`bool`): Whether the source accepts `columns`.

    Raises:
        `UnreadColumn`: naming the columns, what they seem to be, and what to do.
    """
    columns = [entry for entry in _unread(record, record.read | record.ignored) if may_matter(entry[0])]
    labels = label_columns(columns, own_names="chosen" in record.read and "rejected" in record.read)
    if labels:
        raise _error(
            labels,
            "seem to say which response is better" if len(labels) > 1 else "seems to say which response is better",
            "Make `chosen` the better and `rejected` the worse response of every row (or give each a score)",
            place,
            form_advice(record) if mappable else None,
        )
    parts = [name for name, value in columns if _is_part(name, value, row)]
    if parts:
        remedy = "Write the whole prompt into the column that is read"
        if mappable and row.prompt is None:
            remedy = f"Name the column with the prompt, as --columns prompt={parts[-1]} does"
        seem = "seem to be parts of the prompt" if len(parts) > 1 else "seems to be part of the prompt"
        raise _error(parts, seem, remedy, place, form_advice(record) if mappable else None)


def check_completion(entry: ReadRecord, name: str, place: Place) -> None:
    """Refuses one completion of a list whose rank was not read; raises as [`check_all_read`] does."""
    ranks = [key for key, value in _unread(entry, entry.read) if is_rank(key) and value is not None]
    if ranks:
        remedy = f"Write --columns rank={ranks[0]} instead of a score"
        raise _error(ranks, f"of `{name}` seems to say which response is better", remedy, place)


def form_advice(record: dict[str, Any]) -> str | None:
    """Returns what to do if a record has a known form that another source reads; otherwise `None`."""
    found = {form.source: form.name for form in fitting_forms([record])}
    if len(found) != 1 or "preference" in found:
        return None
    return f"It has the form {next(iter(found.values()))}: rm-toolkit build-data auto reads it (in a recipe, source: auto)."


def label_columns(columns: Iterable[tuple[str, Any]], own_names: bool = False) -> list[str]:
    """
    Returns the names of the columns that seem to say which response is better.

    Args:
        columns (iterable of `(name, value)`): Columns that were not read.
        own_names (`bool`): Whether the better response was found in a column that is named `chosen`.
    """
    return [name for name, value in columns if says_which(words_of(name), value, own_names)]


def label_advice(record: dict[str, Any]) -> str | None:
    """Returns what to do if a column of a record says which response is better; `None` if there is none."""
    labels = label_columns(record.items(), own_names=isinstance(record.get("chosen"), str | list))
    if not labels:
        return None
    return (
        f"{name_list(labels)} seems to say which response is better, but is not read in this form: write the "
        "better one of every row into `chosen` and the other into `rejected`, or give each a score."
    )


def _unread(record: dict[str, Any], read: set[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in record.items():
        path = f"{prefix}{name}"
        if path in read or _SUMMED_UP.get(name) in read or _is_empty(value):
            continue
        if isinstance(value, dict) and any(other.startswith(f"{path}.") for other in read):
            yield from _unread(value, read, f"{path}.")
        else:
            yield path, value


def _is_empty(value: Any) -> bool:
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, list | tuple):
        return all(_is_empty(entry) for entry in value)
    return value is None or value == {}


def _is_part(name: str, value: Any, row: RawRow) -> bool:
    """Whether a column is a part of the prompt that no column that was read repeats."""
    full = "_".join(words_of(name))
    if full not in PROMPT_PARTS and not (full in WHOLE_PROMPTS and row.prompt is None):
        return False
    prompt = "\n".join(_strings(row.prompt))
    completions = ["\n".join(_strings(text)) for text in row.completions]
    said = list(_strings(value))
    for text in map(str.strip, said):
        if text and not _says(prompt, text) and not all(_says(other, text) for other in completions):
            return True
    return not said and full in PROMPT_PARTS  # images etc.


def _says(whole: str, text: str) -> bool:
    """Whether a text is in another one, not as a part of longer words."""
    begin = whole.find(text)
    while begin >= 0:
        before, after = whole[begin - 1 : begin], whole[begin + len(text) : begin + len(text) + 1]
        if not (before.isalnum() and text[0].isalnum()) and not (after.isalnum() and text[-1].isalnum()):
            return True
        begin = whole.find(text, begin + 1)
    return False


def _strings(value: Any) -> Iterator[str]:
    """Yields every text in a value; for messages their contents, without answers if a conversation is compared."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        role = value.get("role", value.get("from"))
        if role not in _ANSWERING:
            yield from (text for key, part in value.items() if key not in ("role", "from") for text in _strings(part))
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _strings(entry)


def _error(names: list[str], seem: str, remedy: str, place: Place, advice: str | None = None) -> UnreadColumn:
    shown = [one_line(name, 60) for name in names]
    problem = f"{' and '.join(filter(None, (name_list(shown[:-1]), name_list(shown[-1:]))))} {seem}, and is not read."
    if len(names) > 1:
        problem = problem.replace("and is not read", "and are not read")
    plain = " ".join(shown)
    remedy = (
        f"{remedy}, or pass --ignore-columns {plain} (in a recipe, ignore_columns: [{plain.replace(' ', ', ')}]) to build "
        "without."
    )
    if advice:
        remedy = f"{advice} Or: {remedy[0].lower()}{remedy[1:]}"
    return UnreadColumn(str(place.error(problem, remedy)))
