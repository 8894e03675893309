"""Raw records -> an Arrow dataset of ranked rows, one record at a time, kept in the cache of `datasets`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, one_line
from ..output.places import about
from .cache import remove_left_beside
from .fingerprints import fingerprint
from .messages import Conversation, is_plain, text_format_problem
from .records import Place, RecordFile
from .schema import RawRow, extend_features, ranked_features
from .sources import Source, SourceOptions, find_source
from .sources.base import DEFAULT_DOMAIN, LeftOut
from .sources.unread import ReadRecord, UnreadColumn, check_all_read
from .storable import unstorable
from .templates import arrange, prompt_digest


if TYPE_CHECKING:
    from datasets import Dataset


def read_rows(
    source: Source,
    files: list[RecordFile],
    options: SourceOptions,
    *,
    format: str = "text",
    skip_invalid: bool = False,
    cache_dir: str | None = None,
    free: bool = False,
) -> Dataset:
    """
    Reads files into an Arrow dataset of ranked rows, on disk in the cache of `datasets`, one record at a time.

    Args:
        source (`Source`): How to read a record.
        files (`list[RecordFile]`): Read in this order.
        options (`SourceOptions`): Settings of the source.
        format (`str`): `text` or `chat`.
        skip_invalid (`bool`): Turn a record that cannot be used into a row whose column `_invalid` says why.
        cache_dir (`str`, *optional*): The cache; default: that of `datasets`.
        free (`bool`): Store messages as JSON, see [`~rm_toolkit.data.schema.text_type`]; done automatically if one has
            more than role and content.

    Raises:
        `InputError`: for the first record that cannot be used, unless `skip_invalid` is on.
    """
    from datasets import Dataset
    from datasets.exceptions import DatasetGenerationError

    reading = {
        "source_name": source.name,
        "files": tuple(files),
        "options": SourceOptions(**{name: getattr(options, name) for name in SourceOptions.__dataclass_fields__}),
        "format": format,
        "skip_invalid": skip_invalid,
        "free": free,
    }
    content = [file.fingerprint() for file in files]
    try:
        with about(cache_dir):
            rows = Dataset.from_generator(
                generate_rows,
                features=extend_features(ranked_features(format, free), _invalid="string", _notes="string"),
                gen_kwargs=reading,
                cache_dir=cache_dir,
                fingerprint=fingerprint(reading, content),
                writer_batch_size=200,
            )
        remove_left_beside(rows)
        return rows
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        if isinstance(error.__cause__, FreeMessage):
            how = {"format": format, "skip_invalid": skip_invalid, "cache_dir": cache_dir}
            return read_rows(source, files, options, **how, free=True)
        raise


class FreeMessage(Exception):
    """Raised if a row needs free messages: reading starts again with them."""


def valid_rows(rows: Dataset) -> Dataset:
    """Returns the rows that could be used, without the columns about invalid ones, and the counts."""
    import numpy as np
    import pyarrow.compute

    if "_invalid" not in rows.column_names:
        return rows
    invalid = rows.with_format("arrow")["_invalid"]
    usable = pyarrow.compute.is_valid(rows.with_format("arrow")["prompt_id"])
    if invalid.null_count < len(rows):
        first = pyarrow.compute.drop_null(invalid)[0].as_py().partition(" Fix or remove the")[0]
        if invalid.null_count == 0:
            raise InputError(f"none of the {len(rows)} records can be used. The first: {first}")
    if len(rows) and not pyarrow.compute.any(usable).as_py():
        told = "; ".join(f"{number} {note}" for note, number in count_notes(rows).items())
        raise InputError(f"none of the {len(rows)} records is left: {told}.")
    if not pyarrow.compute.all(usable).as_py():
        rows = rows.select(np.flatnonzero(usable.to_numpy()))
    return rows.remove_columns(["_invalid", "_notes"])


def count_invalid(rows: Dataset) -> int:
    """Returns how many records could not be used."""
    column = rows.with_format("arrow")["_invalid"]
    return len(column) - column.null_count


def invalid_reasons(rows: Dataset, files: list[RecordFile], most: int = 10) -> list[str]:
    """
    Returns the place of each of the first records that could not be used, and why: `row 6: `answer_bad` is null`.

    Args:
        rows (`Dataset`): From [`read_rows`].
        files (`list[RecordFile]`): What they were read from; the name of a file is given where there are several.
        most (`int`): Number of records.
    """
    reasons = []
    for text in rows.with_format("arrow")["_invalid"].drop_null()[:most].to_pylist():
        for path in (file.path for file in files):
            if text.startswith(f"{path}, "):
                text = text.removeprefix(f"{path}, ") if len(files) == 1 else Path(path).name + text[len(path) :]
                break
        text = re.sub(r"(?<=[.)]) [^.]*--skip-invalid\.$", "", text)  # they passed it
        reasons.append(one_line(text, 200).removesuffix("."))
    return reasons


def count_notes(rows: Dataset) -> dict[str, int]:
    """Returns the notes of the source -> how often, worded for "NUMBER …"."""
    column = rows.with_format("arrow")["_notes"].drop_null().to_pylist()
    return dict(Counter(note for notes in column for note in notes.split("\n")))


def generate_rows(
    source_name: str,
    files: tuple[RecordFile, ...],
    options: SourceOptions,
    format: str,
    skip_invalid: bool,
    free: bool = False,
) -> Iterator[dict[str, Any]]:
    """
    Yields ranked rows (all columns of `ranked_features`, `_invalid` and `_notes`).

    Raises:
        `FreeMessage`: at the first row that has more than role and content, unless `free`.
    """
    source = find_source(source_name)
    for row in iterate_raw_rows(source, files, options, skip_invalid, format):
        if isinstance(row, InputError):
            names = ("_notes", "_invalid") if isinstance(row, LeftOut) else ("_invalid", "_notes")
            yield {**dict.fromkeys(ranked_features(format, free)), names[0]: str(row), names[1]: None}
            continue
        prompt, completions, template = _arranged(row, source, options, format)
        if (
            format == "chat"
            and not free
            and not all(Conversation(prompt, c, **template).is_plain for c in completions)
        ):
            raise FreeMessage
        yield {
            "prompt": prompt,
            "completions": completions,
            "scores": row.scores,
            "completion_domains": row.completion_domains,
            "margin": row.margin,
            "domain": options.domain or row.domain or DEFAULT_DOMAIN,
            "source": source.name,
            "prompt_id": prompt_digest(prompt, completions, **template),
            **(template if free else {}),
            "_invalid": None,
            "_notes": "\n".join(row.notes) or None,
        }


def _arranged(row: RawRow, source: Source, options: SourceOptions, format: str) -> tuple[Any, list[Any], dict]:
    prompt, completions = arrange(row.prompt, row.completions, format, template_of(source, options), row.system)
    template = {"tools": row.tools, "chat_template_kwargs": row.chat_template_kwargs} if format == "chat" else {}
    return prompt, completions, template


def placed_rows(
    source: Source, files: Iterable[RecordFile], options: SourceOptions, format: str
) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Yields the usable ranked rows of all files, each with its place, so that a later error can name it."""
    for file in files:
        records = ((place, watched(record, options)) for place, record in file.records())
        for place, record in source.join(records, options) if source.join else records:
            if isinstance(record, InputError):
                continue
            try:
                row = source.row(record, place, options)
                prompt, completions, template = _arranged(row, source, options, format)
            except InputError:
                continue
            yield place, {"prompt": prompt, "completions": completions, "scores": row.scores, **template}


def iterate_raw_rows(
    source: Source,
    files: tuple[RecordFile, ...] | list[RecordFile],
    options: SourceOptions,
    skip_invalid: bool,
    format: str = "text",
) -> Iterator[RawRow | InputError]:
    """
    Yields the rows of all files in order; with `skip_invalid`, the error instead of a row that cannot be used, and
    always a `LeftOut` instead of a row that an option leaves out.
    """
    for file in files:
        records = ((place, watched(record, options)) for place, record in file.records())
        for row, _ in read_records(source, records, options, skip_invalid, format):
            yield row


def read_records(
    source: Source,
    records: Iterable[tuple[Place, ReadRecord | InputError]],
    options: SourceOptions,
    skip_invalid: bool,
    format: str,
) -> Iterator[tuple[RawRow | InputError, Any]]:
    """
    Yields the rows of [`iterate_raw_rows`], each with its record: one of `records`, or several joined by the source.
    """
    for place, record in source.join(records, options) if source.join else records:
        try:
            if isinstance(record, InputError):
                raise record
            row = source.row(record, place, options)
            check_row(row, record, place, source, format)
        except InputError as error:
            if isinstance(error, UnreadColumn) or not (skip_invalid or isinstance(error, LeftOut)):
                raise
            yield error, record
        else:
            yield row, record


def check_row(row: RawRow, record: Any, place: Place, source: Source, format: str) -> None:
    """
    Raises an `InputError` if a row has an important column that is not read, or something that its format cannot
    express.
    """
    if isinstance(record, ReadRecord):
        check_all_read(record, row, place, mappable="columns" in source.accepts)
    if format == "text":
        check_text_format(row, place)
    else:
        _check_storable(row, place)


def _check_storable(row: RawRow, place: Place) -> None:
    """Raises an `InputError` if a row has a value that a JSON column would not return unchanged."""
    texts = [text for text in (row.prompt, *row.completions) if isinstance(text, list)]
    free = [message for messages in texts for message in messages if not is_plain([message])]
    problem = unstorable([free, row.tools, row.chat_template_kwargs])
    if problem:
        raise place.error(f"a message, `tools` or `chat_template_kwargs` has {problem}. Write it as text.")


def watched(record: dict[str, Any] | InputError, options: SourceOptions) -> ReadRecord | InputError:
    """Returns a record that remembers which of its columns were read."""
    return record if isinstance(record, InputError) else ReadRecord(record, options.ignore_columns)


def check_text_format(row: RawRow, place: Place) -> None:
    """Raises an `InputError` if a row has something that the text format cannot express."""
    texts = [text for text in (row.prompt, *row.completions) if isinstance(text, list)]
    problem = text_format_problem([m for messages in texts for m in messages], row.tools, row.chat_template_kwargs)
    if problem:
        remedy = "Build with --format chat, or write what the model should read into the content."
        if row.tools or row.chat_template_kwargs:
            remedy += " --ignore-columns NAME leaves a column out."
        raise place.error(problem, remedy)


def template_of(source: Source, options: SourceOptions) -> str:
    """Returns the template for a plain-text prompt."""
    return options.template or source.template or "none"
