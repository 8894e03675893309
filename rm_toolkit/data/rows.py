"""Raw records -> an Arrow dataset of ranked rows, one record at a time, kept in the cache of `datasets`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .fingerprints import fingerprint
from .records import RecordFile
from .schema import RawRow, extend_features, ranked_features
from .sources import Source, SourceOptions, find_source
from .sources.base import DEFAULT_DOMAIN
from .sources.unread import ReadRecord, UnreadColumn, check_all_read
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
) -> Dataset:
    """
    Reads files into an Arrow dataset of ranked rows, on disk in the cache of `datasets`, one record at a time.

    Args:
        source (`Source`): How to read a record.
        files (`list[RecordFile]`): Read in this order.
        options (`SourceOptions`): Settings of the source.
        format (`str`): `text` or `chat`.
        skip_invalid (`bool`): Make a record that cannot be used a row whose column `_invalid` says why.
        cache_dir (`str`, *optional*): The cache; default: that of `datasets`.

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
    }
    content = [file.fingerprint() for file in files]
    try:
        return Dataset.from_generator(
            generate_rows,
            features=extend_features(ranked_features(format), _invalid="string"),
            gen_kwargs=reading,
            cache_dir=cache_dir,
            fingerprint=fingerprint(reading, content),
            writer_batch_size=200,
        )
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, InputError):
            raise error.__cause__ from None
        raise


def valid_rows(rows: Dataset) -> Dataset:
    """Returns the rows that could be used, without the column that says why others could not."""
    import numpy as np
    import pyarrow.compute

    if "_invalid" not in rows.column_names:
        return rows
    invalid = rows.with_format("arrow")["_invalid"]
    if invalid.null_count < len(rows):
        first = pyarrow.compute.drop_null(invalid)[0].as_py().partition(" Mend or drop")[0]
        if invalid.null_count == 0:
            raise InputError(f"none of the {len(rows)} records can be used. The first: {first}")
        rows = rows.select(np.flatnonzero(pyarrow.compute.is_null(invalid).to_numpy()))
    return rows.remove_columns("_invalid")


def generate_rows(
    source_name: str, files: tuple[RecordFile, ...], options: SourceOptions, format: str, skip_invalid: bool
) -> Iterator[dict[str, Any]]:
    """Yields ranked rows (all columns of `ranked_features`, and `_invalid`)."""
    source = find_source(source_name)
    for row in iterate_raw_rows(source, files, options, skip_invalid):
        if isinstance(row, InputError):
            yield {**dict.fromkeys(ranked_features(format)), "_invalid": str(row)}
            continue
        prompt, completions = arrange(row.prompt, row.completions, format, template_of(source, options))
        yield {
            "prompt": prompt,
            "completions": completions,
            "scores": row.scores,
            "completion_domains": row.completion_domains,
            "margin": row.margin,
            "domain": options.domain or row.domain or DEFAULT_DOMAIN,
            "source": source.name,
            "prompt_id": prompt_digest(prompt, completions),
            "_invalid": None,
        }


def iterate_raw_rows(
    source: Source, files: tuple[RecordFile, ...] | list[RecordFile], options: SourceOptions, skip_invalid: bool
) -> Iterator[RawRow | InputError]:
    """Yields the rows of all files in order; with `skip_invalid` the error in the place of a row that cannot be used."""
    for file in files:
        records = ((place, _watched(record, options)) for place, record in file.records())
        for place, record in source.group(records, options) if source.group else records:
            try:
                if isinstance(record, InputError):
                    raise record
                row = source.row(record, place, options)
                if isinstance(record, ReadRecord):
                    check_all_read(record, row, place, mappable="columns" in source.accepts)
            except InputError as error:
                if not skip_invalid or isinstance(error, UnreadColumn):
                    raise
                yield error
            else:
                yield row


def _watched(record: dict[str, Any] | InputError, options: SourceOptions) -> ReadRecord | InputError:
    return record if isinstance(record, InputError) else ReadRecord(record, options.ignore_columns)


def template_of(source: Source, options: SourceOptions) -> str:
    """Returns the template that stands around a plain-text prompt."""
    return options.template or source.template or "none"
