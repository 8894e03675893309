"""
Anthropic's HH-RLHF: `{"chosen": dialogue, "rejected": dialogue}` per line, in files or in the folder tree of the
release.

The prompt is what both dialogues share; the rows of a folder or file named helpful… or harmless… have that domain.
"""

from __future__ import annotations

from pathlib import Path

from ...errors import InputError, did_you_mean
from ..records import Place
from ..schema import RawRow, field, text_value
from .base import Record, Source, SourceOptions


DOMAINS = ("helpful", "harmless")
SPLIT_FILES = {f"{split}.{suffix}": split for split in ("train", "test") for suffix in ("jsonl", "jsonl.gz")}


def row(record: Record, place: Place, options: SourceOptions) -> RawRow:
    """Returns the row of two whole dialogues, scored 1 and 0."""
    dialogues = [text_value(field(record, name, place), name, place) for name in ("chosen", "rejected")]
    return RawRow(prompt=None, completions=dialogues, scores=[1.0, 0.0], domain=domain_of(place.file))


def domain_of(path: str) -> str | None:
    """Returns `helpful` or `harmless` if the file, or the folder it is in, is named so."""
    for name in (Path(path).name, Path(path).absolute().parent.name):
        for domain in DOMAINS:
            if name.startswith(domain):
                return domain
    return None


def find_files(folder: str, options: SourceOptions) -> list[tuple[str, str]]:
    """
    Lists `(split, file)` of the release's folders (helpful-base, helpful-online, …), only those of `options.domain` if
    it is set. Other folders (red-team-attempts) are left out.

    Raises:
        `InputError`: if there is no such file.
    """
    if options.domain not in (None, *DOMAINS):
        raise InputError(
            f"`domain` is '{options.domain}', but a folder of HH has 'helpful' and 'harmless'."
            f"{did_you_mean(options.domain, DOMAINS)}"
        )
    found = []
    for path in sorted(Path(folder).rglob("*")):
        domain = domain_of(str(path))
        if path.name in SPLIT_FILES and (domain or path.parent == Path(folder)) and options.domain in (None, domain):
            found.append((SPLIT_FILES[path.name], str(path)))
    if not found:
        wanted = options.domain or "helpful… or harmless…"
        raise InputError(f"{folder}: no train.jsonl(.gz) or test.jsonl(.gz) in it or in a folder named {wanted}.")
    return found


SOURCE = Source(
    "hh",
    "Anthropic HH: chosen and rejected dialogues, files or the folder tree",
    row,
    find_files=find_files,
    license="mit",
)
