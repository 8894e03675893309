"""Rows of the benchmark: the same texts in the format of each side, none longer than `max_length`."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from rm_toolkit.testing import train_tokenizer


ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = ROOT.parent / "shared" / "data" / "published"
SAMPLES = ROOT / "data" / "samples"
DOMAINS = ("academy", "business", "entertainment", "literature", "normal")
VOCAB_SIZE = 8192


@dataclass
class Rows:
    """
    One dataset.

    Args:
        name (`str`): `dsp` or `helpful`.
        origin (`str`): Name of the file.
        groups (`list[tuple[str, list[str]]]`): Prompt and completions; the first is preferred to each of the others.
    """

    name: str
    origin: str
    groups: list[tuple[str, list[str]]]

    @property
    def num_pairs(self) -> int:
        return sum(len(completions) - 1 for _, completions in self.groups)

    def pairs(self) -> Dataset:
        """One row per pair, with whole texts, as TRL expects."""
        rows = [(p + c[0], p + worse) for p, c in self.groups for worse in c[1:]]
        return Dataset.from_dict({"chosen": [a for a, _ in rows], "rejected": [b for _, b in rows]})

    def ranked(self) -> Dataset:
        """One row per prompt, with its completions and their scores."""
        return Dataset.from_dict(
            {
                "prompt": [p for p, _ in self.groups],
                "completions": [c for _, c in self.groups],
                "scores": [[1.0] + [0.0] * (len(c) - 1) for _, c in self.groups],
            }
        )

    def take(self, num_pairs: int, seed: int = 0) -> Rows:
        """A random subset of whole groups with about `num_pairs` pairs, never more unless one group has more."""
        per_group = len(self.groups[0][1]) - 1
        count = min(len(self.groups), max(1, num_pairs // per_group))
        return Rows(self.name, self.origin, random.Random(seed).sample(self.groups, count))


def load_rows(name: str) -> Rows:
    """
    Reads a dataset from the published files beside the project or, if there are none, from the samples.

    Args:
        name (`str`): `"dsp"` (five responses per query, academy preferred) or `"helpful"` (dialogues).
    """
    if name == "dsp":
        path = PUBLISHED / "domain_specific_preference.test.json"
        path = path if path.exists() else SAMPLES / "dsp.train.json"
        return dsp_rows(json.loads(path.read_text(encoding="utf-8")), path.name)
    path = PUBLISHED / "helpful.test.json"
    if path.exists():
        items = [item["text"] for item in json.loads(path.read_text(encoding="utf-8"))]
    else:
        path = sorted(SAMPLES.glob("hh/helpful*/train*"))[0]
        items = _dialogues(path)
    return helpful_rows(items, path.name)


def dsp_rows(items: list[dict[str, Any]], origin: str) -> Rows:
    """Queries with their five answers, academy first; queries with two equal answers are left out."""
    groups = [
        (f"## Human:\n{item['query']}\n\n## Assistant:\n", [item["responses"][domain] for domain in DOMAINS])
        for item in items
    ]
    groups = [(prompt, list(dict.fromkeys(completions))) for prompt, completions in groups]
    return Rows("dsp", origin, [group for group in groups if len(group[1]) == len(DOMAINS)])


def helpful_rows(items: list[tuple[str, str]], origin: str) -> Rows:
    """Pairs of whole dialogues, the better one first; equal ones are left out."""
    return Rows("helpful", origin, [("", [better, worse]) for better, worse in items if better != worse])


def _dialogues(path: Path) -> list[tuple[str, str]]:
    import gzip

    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    return [(row["chosen"], row["rejected"]) for row in rows]


def make_tokenizer(sets: list[Rows], folder: Path) -> PreTrainedTokenizerBase:
    """A BPE tokenizer with 8K tokens, trained on the benchmark's own texts; it pads with its unknown token."""
    texts = [p + c for rows in sets for p, completions in rows.groups for c in completions]
    tokenizer = train_tokenizer(random.Random(0).sample(texts, min(len(texts), 3000)), folder, VOCAB_SIZE)
    tokenizer.pad_token = tokenizer.unk_token
    return tokenizer


def only_fitting(rows: Rows, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Rows:
    """Drops groups with a text that is too long with EOS: TRL would drop it, and all sides need the same rows."""

    def fits(group: tuple[str, list[str]]) -> bool:
        ids: list[Any] = tokenizer([group[0] + completion for completion in group[1]])["input_ids"]
        return max(map(len, ids)) < max_length

    return Rows(rows.name, rows.origin, [group for group in rows.groups if fits(group)])
