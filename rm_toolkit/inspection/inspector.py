"""One preference dataset -> what to know about it before training on it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from .. import __version__
from ..batches.rendering import render_whole
from ..data.mixture import read_uncleaned
from ..data.recognition import AUTO
from ..data.records import RecordFile, read_records
from ..data.schema import Text, find_format
from ..data.specs import DatasetSpec
from ..evaluation.lengths import longer_wins
from ..models.hub_files import split_revision
from ..models.settings import load_settings
from ..models.tokenizer import DEFAULT_CHAT_TEMPLATE, load_tokenizer
from ..output.folders import check_output, written_whole
from .contents import Contents, read_contents
from .counts import as_ranked, count_rows, describe_lengths, shared_with
from .measures import completion_characters, content, measure, text_digests
from .words import DistinctiveWord


RESULT_NAME = "inspection.json"
DEFAULT_MAX_LENGTH = 512


@dataclass
class Inspection:
    """
    The result of [`inspect_dataset`].

    Args:
        result (`dict`): Contents of `inspection.json`.
        lengths (`dict[str, np.ndarray]`): Length of each text of each group, in the unit in `result`.
        words (`dict[str, list[DistinctiveWord]]`): Distinctive words of each group, best first.
    """

    result: dict[str, Any]
    lengths: dict[str, np.ndarray] = field(default_factory=dict)
    words: dict[str, list[DistinctiveWord]] = field(default_factory=dict)

    def save(self, folder: str | os.PathLike, *, overwrite: bool = False, word_clouds: bool = True) -> None:
        """
        Writes `inspection.json`, `report.md`, `report.html` and `figures/`; the folder appears when it is complete.

        Args:
            folder (`str` or `os.PathLike`): The folder to write.
            overwrite (`bool`): Whether to replace an earlier report.
            word_clouds (`bool`): Whether to draw word clouds, which need the package `wordcloud`.

        Raises:
            `InputError`: if the folder is in use.
        """
        from .figures import draw_figures
        from .page import write_page
        from .report import write_report

        check_inspection_folder(Path(folder), overwrite)
        with written_whole(Path(folder)) as new:
            text = json.dumps(self.result, indent=2, ensure_ascii=False, allow_nan=False)
            (new / RESULT_NAME).write_text(text + "\n", encoding="utf-8")
            figures = draw_figures(self.result, self.lengths, self.words, new / "figures", word_clouds)
            write_report(self.result, figures, new / "report.md")
            write_page(self.result, figures, new / "report.html")


def check_inspection_folder(folder: Path, overwrite: bool) -> None:
    """Raises an `InputError` if a report cannot be written to `folder`."""
    check_output(folder, overwrite, marker=RESULT_NAME, command="inspect")


def inspect_dataset(
    spec: str | Mapping[str, Any] | DatasetSpec,
    *,
    against: Mapping[str, str | Mapping[str, Any] | DatasetSpec] | None = None,
    tokenizer: str | None = None,
    max_length: int | None = None,
    split: str = "train",
    seed: int = 0,
    cache_dir: str | None = None,
    show_progress: bool = True,
) -> Inspection:
    """
    Counts what is in a preference dataset as it is, before cleaning.

    Args:
        spec (`str` or `dict`): SPEC as in a recipe. A DSP file without a `domain` is counted once per domain.
        against (`dict`, *optional*): Name -> SPEC of other sets, to find overlaps.
        tokenizer (`str`, *optional*): Folder or Hub id of a tokenizer or model. Without it lengths are in words.
        max_length (`int`, *optional*): Maximum length of the model in tokens. Default: that of its settings, else 512.
        split (`str`): Split to use if a SPEC does not name one.
        seed (`int`): Seed of the splits made here.
        cache_dir (`str`, *optional*): Cache for raw files.
        show_progress (`bool`): Whether to draw progress bars.

    Raises:
        `InputError`: if the data or the tokenizer cannot be read.
    """
    read = {"split": split, "seed": seed, "cache_dir": cache_dir}
    views = {name: as_ranked(dataset) for name, dataset in _views(DatasetSpec.parse(spec, "dataset"), read).items()}
    first = next(iter(views.values()))
    contents = read_contents(first, "dataset")
    counter = LengthCounter(tokenizer, find_format(first.features))
    measured = measure(contents, counter, show_progress)
    lengths = measured.lengths
    limit = max_length or counter.max_length
    result: dict[str, Any] = {
        "rm_toolkit": __version__,
        "command": None,
        "dataset": spec if isinstance(spec, str) else asdict(DatasetSpec.parse(spec, "dataset")),
        "fingerprint": contents.fingerprint(),
        "counts": {name: count_rows(view) for name, view in views.items()},
        "texts": len(contents),
        "longer_wins": {
            name: _longer_wins(contents, measured.characters) if view is first else _longer_wins_of(view, name)
            for name, view in views.items()
        },
        "lengths": {
            "unit": counter.unit,
            "tokenizer": tokenizer,
            **{name: describe_lengths(values) for name, values in lengths.items() if len(values)},
        },
        "cut": None,
        "overlap": _overlaps(contents, against or {}, read),
        "words": {name: [asdict(word) for word in own] for name, own in measured.words.items()},
    }
    if tokenizer is not None:
        over = int((lengths["whole texts"] > limit).sum())
        result["cut"] = {"max_length": limit, "texts": over, "share": over / len(lengths["whole texts"])}
    return Inspection(result, lengths, measured.words)


class LengthCounter:
    """
    Lengths of texts in tokens, or in words if no tokenizer is given.

    Args:
        tokenizer (`str`, *optional*): Folder or Hub id (also `ID@REVISION`).
        data_format (`str`): `text` or `chat`.
    """

    def __init__(self, tokenizer: str | None, data_format: str):
        self.unit = "words" if tokenizer is None else "tokens"
        self.data_format = data_format
        name, revision = split_revision(tokenizer or "")
        self.tokenizer = None if tokenizer is None else load_tokenizer(name, revision=revision)
        settings = None if tokenizer is None else load_settings(name, revision)
        self.max_length = settings.max_length if settings else DEFAULT_MAX_LENGTH
        if self.tokenizer is not None and not self.tokenizer.chat_template:
            self.tokenizer.chat_template = DEFAULT_CHAT_TEMPLATE  # as in training for such a tokenizer

    def __call__(self, texts: Sequence[tuple[Text, Text]], whole: bool) -> np.ndarray:
        """
        Counts tokens or words.

        Args:
            texts (`Sequence[tuple]`): (prompt, completion).
            whole (`bool`): Whether to count them as a model reads them, with special tokens and chat template.

        Returns:
            `np.ndarray` of shape `(num_texts,)`.
        """
        if self.tokenizer is None:
            return np.array([len((content(p) + " " + content(c)).split()) for p, c, *_ in texts], dtype=np.int64)
        if whole:
            strings = render_whole(texts, self.tokenizer, self.data_format)
        else:
            strings = [content(p or c) for p, c, *_ in texts]
        special = whole and self.data_format == "text"
        encoded = self.tokenizer(strings, add_special_tokens=special, truncation=False, verbose=False)
        return np.array([len(ids) for ids in encoded["input_ids"]], dtype=np.int64)


def _views(spec: DatasetSpec, read: dict[str, Any]) -> dict[str, Dataset]:
    """The dataset; a DSP file once per domain that can be the preferred one."""
    if spec.source in (None, AUTO, "dsp") and spec.domain is None and Path(spec.path).is_file():
        _, record = next(read_records(RecordFile(spec.path)))
        responses = record.get("responses") if isinstance(record, dict) and "query" in record else None
        if isinstance(responses, dict) and responses:
            return {domain: read_uncleaned(replace(spec, domain=domain), **read) for domain in responses}
    return {spec.domain or "all": read_uncleaned(spec, **read)}


def _overlaps(contents: Contents, against: Mapping[str, Any], read: dict[str, Any]) -> dict[str, dict[str, Any]]:
    if not against:
        return {}
    texts, ids = text_digests(contents), set(contents.dataset.unique("prompt_id"))
    found = {}
    for name, spec in against.items():
        other = next(iter(_views(DatasetSpec.parse(spec, name), read).values()))
        found[name] = shared_with(texts, ids, text_digests(read_contents(other, name)), set(other.unique("prompt_id")))
    return found


def _longer_wins_of(view: Dataset, name: str) -> float:
    contents = read_contents(view, name)
    return _longer_wins(contents, completion_characters(contents))


def _longer_wins(contents: Contents, characters: np.ndarray) -> float:
    return float(longer_wins(characters[contents.better], characters[contents.worse]).mean())
