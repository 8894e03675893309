"""Recognizes the form of an input by the columns of its first records, and reads its first row."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError, name_list
from .inputs import resolve_inputs
from .places import Place
from .records import RecordFile, is_saved_dataset
from .rows import read_records, template_of, watched
from .schema import RawRow, Text, known_keys
from .sources import Source, SourceOptions, find_source
from .sources.forms import Form, fitting_forms, rivals
from .sources.unread import ReadRecord, label_advice
from .templates import arrange


AUTO = "auto"
LOOKED_AT = 100  # records: a column that is null in the first may have a value in a later one


@dataclass
class Preview:
    """
    The first row of an input, as read.

    Args:
        prompt (`str` or list of messages): Prompt, as built.
        completions (list of K `str` or message lists): Completions, as built.
        scores (list of K `float`): Higher is better.
        unread (`list[str]`): Columns of the first record that were not read.
        notes (`list[str]`): Notes that are counted.
    """

    prompt: Text
    completions: list[Text]
    scores: list[float]
    unread: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def source_named(name: str, inputs: list[str], options: SourceOptions) -> Source:
    """
    Returns the source with this name; for `auto`, the one that reads the form of the inputs.

    Raises:
        `InputError`: as in [`recognize_inputs`] and [`~rm_toolkit.data.sources.find_source`].
    """
    if name != AUTO:
        return find_source(name)
    found = recognize_inputs(inputs, options)
    return found if isinstance(found, Source) else find_source(found.source)


def recognize_inputs(inputs: list[str], options: SourceOptions) -> Form | Source:
    """
    Returns the common form of all inputs; for the folder of a release, its source.

    Raises:
        `InputError`: if there is none, if there are several, or if two inputs are of different forms.
    """
    if options.columns:
        raise InputError("`auto` finds the columns itself; with --columns, use jsonl instead of auto.")
    for text in inputs:
        path = text.partition("=")[2] if "=" in text and not Path(text).exists() else text
        if Path(path).is_dir() and not is_saved_dataset(path):
            return _source_of_folder(path, options)
    any_source = Source(AUTO, "", lambda record, place, options: None)
    files = [file for part in resolve_inputs(any_source, inputs, options).values() for file in part]
    forms = [(file, recognize(file, options)) for file in files]
    for file, form in forms[1:]:
        if form.source != forms[0][1].source:
            raise InputError(
                f"{file.path} has the form {form.name}, but {forms[0][0].path} has {forms[0][1].name}. Build each separately."
            )
    return forms[0][1]


def recognize(file: RecordFile, options: SourceOptions | None = None) -> Form:
    """
    Returns the form of a file.

    Args:
        file (`RecordFile`): Its first records are checked.
        options (`SourceOptions`, *optional*): Columns that are left out.

    Raises:
        `InputError`: if it has no known form, or several.
    """
    ignored = options.ignore_columns if options else ()
    records, fault = [], None
    for _, record in itertools.islice(file.records(), LOOKED_AT):
        if isinstance(record, dict):
            records.append({name: value for name, value in record.items() if name not in ignored})
        else:
            fault = fault or record
    if not records:
        raise fault
    forms = fitting_forms(records)
    if not forms:
        raise _unknown(file, records[0])
    two = rivals(forms)
    if two:
        told = "; ".join(f"{form.name} (source {form.source}: {name_list(form.columns)})" for form in forms)
        which = (
            f"Say which: rm-toolkit build-data {two[0].source} …, or `source: {two[0].source}` in a recipe; or leave"
        )
        if two[0].source == two[1].source:
            which = "Leave"
        shown = " ".join(name for name in two[1].columns if name not in two[0].columns)
        raise InputError(
            f"{file.path}: the columns fit several forms: {told}. {which} columns out: --ignore-columns {shown} reads it as "
            f"{two[0].name}."
        )
    return forms[0]


def _unknown(file: RecordFile, record: dict[str, Any]) -> InputError:
    if {"chosen_ids", "rejected_ids"} <= record.keys():
        return InputError(
            f"{file.path}: the rows are token ids (chosen_ids, rejected_ids), but datasets are built from texts. Give the "
            "texts, or name the file directly in a recipe: training and its test sets read token ids."
        )
    advice = label_advice(record) or (
        "Name its columns, for example: rm-toolkit build-data jsonl --columns prompt=question chosen=good rejected=bad "
        "(in a recipe: source: jsonl, columns: {…})."
    )
    return InputError(f"{file.path}: no known form has the columns {known_keys(record)}. {advice}")


def _source_of_folder(path: str, options: SourceOptions) -> Source:
    hh = find_source("hh")
    try:
        hh.find_files(path, options)
    except InputError as error:
        raise InputError(
            f"{path}: this folder has no saved dataset and is not the folder tree of HH-RLHF. Give one of its files."
        ) from error
    return hh


def preview(
    source: Source, file: RecordFile, options: SourceOptions, format: str, skip_invalid: bool = False
) -> Preview:
    """
    Returns the first row of a file, as read by a source.

    Args:
        source (`Source`): How to read a record.
        file (`RecordFile`): The input.
        options (`SourceOptions`): Settings of the source.
        format (`str`): `text` or `chat`.
        skip_invalid (`bool`): Skip records that cannot be used.

    Raises:
        `InputError`: for the first record that cannot be used, unless `skip_invalid` is on.
    """
    seen: list[ReadRecord] = []

    def records() -> Iterator[tuple[Place, Any]]:
        for place, record in file.records():
            record = watched(record, options)
            if isinstance(record, ReadRecord):
                seen.append(record)
            yield place, record

    for row, record in read_records(source, records(), options, skip_invalid, format):
        if not isinstance(row, InputError):
            return _shown(row, source, options, format, record if isinstance(record, ReadRecord) else seen[0])
    raise InputError(f"{file.path}: no row is left to read.")


def _shown(row: RawRow, source: Source, options: SourceOptions, format: str, record: ReadRecord) -> Preview:
    prompt, completions = arrange(row.prompt, row.completions, format, template_of(source, options), row.system)
    roots = {name.partition(".")[0] for name in record.read}
    unread = [name for name, value in record.items() if name not in roots and value is not None]
    return Preview(prompt, completions, row.scores, unread, list(dict.fromkeys(row.notes)))
