"""
The pairs of an evaluation as a page reads them: one block of numbers for sorting and filtering, a few bytes per pair,
and blocks of prompts and of texts, loaded when they are shown or searched.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Any

import numpy as np

from ..data.messages import content_text
from ..data.schema import Text
from ..output.page.columns import coded, packed
from ..output.page.document import PageData
from ..output.page.escaping import script_json
from .lengths import RATIO_EDGES, RATIO_NAMES
from .pair_rows import Judged
from .preferences import TAGS, PreferencePairs


PROMPTS_A_BLOCK = 500
# A whole block is loaded to show one of its texts.
CHARACTERS_A_BLOCK = 500_000
EXCERPT = 140
# The marker of a turn carries no information in a list of prompts.
MARKER = re.compile(r"^(?:#+\s*)?(?:human|user|question|instruction)\s*:\s*", re.IGNORECASE)
LAST_MARKER = re.compile(r"(?:#+\s*)?(?:assistant|answer|response)\s*:$", re.IGNORECASE)


def add_pairs(sets: dict[str, list[Judged]], data: PageData) -> None:
    """
    Adds the pairs of all test sets to a page.

    Args:
        sets (`dict[str, list[Judged]]`): Each test set as every model judges it. The first model's texts are shown; lengths
            are each model's own, because they differ between data formats.
        data (`PageData`): Receives the blocks `pairs`, `prompts-N` and `texts-N`.
    """
    tables = [judged[0].table for judged in sets.values()]
    starts = _add_texts(tables, data)
    for number, block in enumerate(_prompt_blocks(tables)):
        data.add(f"prompts-{number}", block)
    data.add("pairs", {**_numbers(sets, tables), "textStarts": starts, "promptsABlock": PROMPTS_A_BLOCK})


def _numbers(sets: dict[str, list[Judged]], tables: list[PreferencePairs]) -> dict[str, Any]:
    """The data for sorting and filtering: texts and prompts are numbered across all sets."""
    texts = list(accumulate((len(table.completions) for table in tables), initial=0))
    prompts = list(accumulate((_num_prompts(table) for table in tables), initial=0))
    found: dict[str, Any] = {
        "sets": [{"name": name, "pairs": len(table)} for name, table in zip(sets, tables)],
        "numTexts": texts[-1],
        "better": packed(_joined(table.better + first for table, first in zip(tables, texts))),
        "worse": packed(_joined(table.worse + first for table, first in zip(tables, texts))),
        "prompt": packed(_joined(table.prompt + first for table, first in zip(tables, prompts))),
        "length": packed(_joined(table.lengths for table in tables)),
        "ratioEdges": list(RATIO_EDGES),
        "ratioNames": list(RATIO_NAMES),
        "tags": {tag: coded(_tag_values(tables, tag)) for tag in TAGS if any(tag in table.tags for table in tables)},
        "wanted": None,
        "models": [_model_numbers(own, tables) for own in zip(*sets.values())],
    }
    if any(table.margin is not None for table in tables):
        nothing = [np.full(len(table), np.nan, dtype=np.float32) for table in tables]
        found["wanted"] = packed(
            _joined(none if table.margin is None else table.margin for table, none in zip(tables, nothing))
        )
    return found


def _model_numbers(judged: tuple[Judged, ...], shown: list[PreferencePairs]) -> dict[str, Any]:
    """
    For one model: the rewards of each pair, and which of its responses were cut (1 the chosen one, 2 the other).

    Also the characters of the two responses, if it reads them differently from how they are `shown`.
    """
    cut = _joined(own.sides_cut[0] + 2 * own.sides_cut[1].astype(np.uint8) for own in judged)
    lengths = [_joined(side) for side in zip(*(_lengths(own.table) for own in judged))]
    other = any((side != _joined(first)).any() for side, first in zip(lengths, zip(*map(_lengths, shown))))
    return {
        "name": judged[0].model,
        "chosen": packed(_joined(own.sides[0] for own in judged)),
        "rejected": packed(_joined(own.sides[1] for own in judged)),
        "cut": packed(cut) if cut.any() else None,
        "lengths": [packed(side) for side in lengths] if other else None,
    }


def _lengths(table: PreferencePairs) -> tuple[np.ndarray, np.ndarray]:
    """Characters of the chosen and of the rejected response of each pair."""
    return table.lengths[table.better], table.lengths[table.worse]


def _tag_values(tables: list[PreferencePairs], tag: str) -> Iterator[str | None]:
    for table in tables:
        yield from table.tags[tag] if tag in table.tags else [None] * len(table)


def _joined(parts: Iterable[np.ndarray]) -> np.ndarray:
    return np.concatenate(list(parts))


def _num_prompts(table: PreferencePairs) -> int:
    return int(table.prompt.max()) + 1


def _prompt_blocks(tables: list[PreferencePairs]) -> Iterator[dict[str, Any]]:
    """Ids and first words of the prompts, a fixed number per block."""
    ids: list[str] = []
    excerpts: list[str] = []
    for table in tables:
        first = dict(zip(table.prompt[::-1].tolist(), table.better[::-1].tolist()))
        for number in range(_num_prompts(table)):
            ids.append(table.prompt_ids[number] if table.prompt_ids is not None else "")
            text = first.get(number)  # none if all responses of a row are tied
            excerpts.append("" if text is None else excerpt(table.prompts[text] or table.completions[text]))
            if len(ids) == PROMPTS_A_BLOCK:
                yield {"ids": ids, "excerpts": excerpts}
                ids, excerpts = [], []
    if ids:
        yield {"ids": ids, "excerpts": excerpts}


def excerpt(text: Text) -> str:
    """Returns the first words of a prompt; for a chat, of its last user message."""
    if not isinstance(text, str):
        users = [message for message in text if message.get("role") == "user"]
        text = content_text((users or text)[-1]) if text else ""
    text = " ".join(LAST_MARKER.sub("", MARKER.sub("", text[: 20 * EXCERPT].strip())).split())
    return text if len(text) <= EXCERPT else text[: EXCERPT - 1] + "…"


def _add_texts(tables: list[PreferencePairs], data: PageData) -> list[int]:
    """Writes the texts of all sets in order; returns the number of the first text of each block."""
    starts: list[int] = []
    block = _TextBlock()
    for number, (prompt, completion, template) in enumerate(_texts(tables)):
        if not block.texts:
            starts.append(number)
        block.add(prompt, completion, template)
        if block.size >= CHARACTERS_A_BLOCK:
            data.add_json(f"texts-{len(starts) - 1}", block.json())
            block = _TextBlock()
    if block.texts:
        data.add_json(f"texts-{len(starts) - 1}", block.json())
    return starts


def _texts(tables: list[PreferencePairs]) -> Iterator[tuple[Text, Text, dict[str, Any] | None]]:
    for table in tables:
        for number, (prompt, completion) in enumerate(zip(table.prompts, table.completions)):
            template = {k: v for k, v in table.template[number].items() if v} if table.template is not None else None
            yield prompt, completion, template or None


class _TextBlock:
    """Texts as JSON; a prompt shared with the previous text is written once."""

    def __init__(self):
        self.prompts: list[str] = []
        self.texts: list[str] = []
        self.size = 0
        self._last: Any = None

    def add(self, prompt: Text, completion: Text, template: dict[str, Any] | None) -> None:
        head = (prompt, template)
        if not self.prompts or head != self._last:
            self.prompts.append(script_json([prompt, template]))
            self._last = head
            self.size += len(self.prompts[-1])
        self.texts.append(f"[{len(self.prompts) - 1},{script_json(completion)}]")
        self.size += len(self.texts[-1])

    def json(self) -> str:
        return f'{{"prompts":[{",".join(self.prompts)}],"texts":[{",".join(self.texts)}]}}'
