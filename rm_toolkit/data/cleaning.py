"""Cleaning of built rows, every step counted: empty texts, identical texts, ties, exact duplicates."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from .fingerprints import derived
from .messages import TEMPLATE_COLUMNS, canonical, says_nothing
from .pair_columns import Batch, drop_empty_columns, expand_batch
from .schema import Text, extend_features, features_like
from .templates import normalize


if TYPE_CHECKING:
    from datasets import Dataset


# Helper columns of the cleaning pass, removed at its end.
DROP, KEY, EMPTY, IDENTICAL = "_drop", "_key", "_empty", "_identical"
KEEP, IS_EMPTY, IS_IDENTICAL, IS_TIE = range(4)


@dataclass
class CleaningCounts:
    """
    What cleaning removed from one split. Numbers count rows (pairs or ranked rows) unless they say texts.

    Args:
        read (`int`): Raw records read.
        invalid (`int`): Raw records left out with `--skip-invalid`.
        rows (`int`): Rows before cleaning.
        empty (`int`): Rows dropped for an empty text (ranked: fewer than two texts are not empty).
        identical (`int`): Rows dropped because chosen and rejected are the same (ranked: all texts are the same).
        ties (`int`): Pairs dropped for equal scores. Ranked rows keep such texts: they form no pair in training, and
            evaluation reports them.
        duplicates (`int`): Rows dropped as duplicates of an earlier one, up to white space.
        listed (`int`): Pairs dropped because a reviewed list names them (`--drop-pairs`).
        texts_dropped (`int`): Ranked rows only: empty and repeated texts removed from rows that are kept.
        tied_rows (`int`): Ranked rows only: rows kept in which every score is equal.
        kept (`int`): Rows written.
    """

    read: int = 0
    invalid: int = 0
    rows: int = 0
    empty: int = 0
    identical: int = 0
    ties: int = 0
    duplicates: int = 0
    listed: int = 0
    texts_dropped: int = 0
    tied_rows: int = 0
    kept: int = 0

    def as_dict(self) -> dict[str, int]:
        """Returns the counts for JSON; without a list of pairs, its count is omitted."""
        return {name: number for name, number in asdict(self).items() if number or name != "listed"}


def cleaning_steps(shape: str, *, listed: bool = False) -> dict[str, str]:
    """
    Returns the label of each step -> its name in `CleaningCounts`, in order.

    Args:
        shape (`str`): `pairs` or `ranked`.
        listed (`bool`): Whether pairs of a list were left out.
    """
    steps = {
        "records read": "read",
        "invalid records left out": "invalid",
        "pairs" if shape == "pairs" else "rows": "rows",
        "- empty texts": "empty",
        "- identical chosen and rejected" if shape == "pairs" else "- all texts identical": "identical",
        **({"- ties": "ties"} if shape == "pairs" else {}),
        "- exact duplicates": "duplicates",
        **({"- pairs of --drop-pairs": "listed"} if listed else {}),
        "kept": "kept",
    }
    if shape == "ranked":
        steps |= {
            "  texts removed from kept rows": "texts_dropped",
            "  kept rows whose scores are all tied": "tied_rows",
        }
    return steps


def clean_pairs(ranked: Dataset, num_proc: int | None = None) -> tuple[Dataset, CleaningCounts]:
    """
    Expands ranked rows (all columns of `ranked_features`) into pairs and drops those without a preference.

    Returns:
        `(pairs, counts)`: Empty optional columns are removed; the first of several duplicates is kept.
    """
    features = extend_features(features_like(ranked.features, "pairs"), **{DROP: "int8", KEY: "int64"})
    flagged = _map(ranked, _flag_pairs, features, "Pairing and cleaning", num_proc)
    return _keep(flagged)


def clean_ranked(ranked: Dataset, num_proc: int | None = None) -> tuple[Dataset, CleaningCounts]:
    """
    Cleans ranked rows: removes empty and repeated texts (the best-scored one is kept), and rows left with one text.

    Returns:
        `(rows, counts)`
    """
    helpers = {DROP: "int8", KEY: "int64", EMPTY: "int64", IDENTICAL: "int64"}
    features = extend_features(features_like(ranked.features, "ranked"), **helpers)
    flagged = _map(ranked, _flag_ranked, features, "Cleaning", num_proc)
    return _keep(flagged)


def clean_row(row: dict[str, Any], shape: str) -> list[dict[str, Any]]:
    """
    Cleans one ranked row of a stream on its own: duplicates of other rows are kept.

    Args:
        row (`dict`): All columns of `ranked_features`.
        shape (`str`): `pairs` gives each of its pairs as a ranked row of two.

    Returns:
        `list[dict]`: Ranked rows; empty if nothing is left.
    """
    batch = {name: [value] for name, value in row.items()}
    if shape == "ranked":
        flagged = _flag_ranked(batch)
        return [{name: flagged[name][0] for name in row}] if flagged[DROP][0] == KEEP else []
    flagged = _flag_pairs(batch)
    pairs = [
        dict(zip(flagged, values)) for values in zip(*flagged.values()) if values[list(flagged).index(DROP)] == KEEP
    ]
    return [
        {
            **{name: pair.get(name) for name in row},
            "completions": [pair["chosen"], pair["rejected"]],
            "scores": [pair["score_chosen"], pair["score_rejected"]],
            "completion_domains": None,
        }
        for pair in pairs
    ]


def _map(dataset: Dataset, function: Any, features: Any, title: str, num_proc: int | None) -> Dataset:
    processes = min(num_proc or 1, max(1, len(dataset)))
    return dataset.map(
        function,
        batched=True,
        # A batch and its result are in memory at once; with long texts in rows of five, a thousand rows are too many.
        batch_size=200,
        writer_batch_size=1000,
        num_proc=processes if processes > 1 else None,
        remove_columns=dataset.column_names,
        features=features,
        new_fingerprint=derived(dataset, function.__name__),
        desc=title,
    )


def _keep(flagged: Dataset) -> tuple[Dataset, CleaningCounts]:
    """Counts the flags, and drops flagged rows and duplicates of earlier rows."""
    import numpy as np

    def column(name: str) -> np.ndarray:
        return flagged.with_format("arrow")[name].to_numpy()

    counts = CleaningCounts(rows=len(flagged))
    if len(flagged) == 0:
        return drop_empty_columns(flagged.remove_columns([DROP, KEY])), counts
    drop = column(DROP)
    counts.empty, counts.identical, counts.ties = (
        int((drop == flag).sum()) for flag in (IS_EMPTY, IS_IDENTICAL, IS_TIE)
    )
    passed = np.flatnonzero(drop == KEEP)
    _, first = np.unique(column(KEY)[passed], return_index=True)
    kept = passed[np.sort(first)]
    counts.duplicates, counts.kept = len(passed) - len(kept), len(kept)
    helpers = [DROP, KEY]
    if EMPTY in flagged.column_names:
        counts.texts_dropped = int((column(EMPTY) + column(IDENTICAL))[kept].sum())
        helpers += [EMPTY, IDENTICAL]
        scores = flagged.select_columns(["scores"]).with_format("arrow")["scores"]
        counts.tied_rows = sum(len(set(scores[int(n)].as_py())) == 1 for n in kept)
    return drop_empty_columns(flagged.remove_columns(helpers).select(kept)), counts


def _flag_pairs(batch: Batch) -> Batch:
    out = expand_batch(batch)
    out[DROP], out[KEY] = [], []
    columns = (out[name] for name in ("prompt", "chosen", "rejected", "score_chosen", "score_rejected"))
    for n, (prompt, chosen, rejected, better, worse) in enumerate(zip(*columns)):
        texts = [normalize(chosen), normalize(rejected)]
        if is_empty(chosen) or is_empty(rejected):
            out[DROP].append(IS_EMPTY)
        elif texts[0] == texts[1]:
            out[DROP].append(IS_IDENTICAL)
        else:
            out[DROP].append(IS_TIE if better == worse else KEEP)
        out[KEY].append(_digest(normalize(prompt), *texts, *_template(out, n)))
    return out


def _flag_ranked(batch: Batch) -> Batch:
    names = [name for name in batch if not name.startswith("_")]
    out: Batch = {name: list(batch[name]) for name in names}
    for name in (DROP, KEY, EMPTY, IDENTICAL):
        out[name] = []
    for n, texts in enumerate(batch["completions"]):
        scores = batch["scores"][n]
        filled = [i for i in range(len(texts)) if not is_empty(texts[i])]
        best: dict[str, int] = {}
        for i in sorted(filled, key=lambda i: -scores[i]):  # stable: of equal scores, the first is kept
            best.setdefault(normalize(texts[i]), i)
        kept = sorted(best.values())
        for name in ("completions", "scores", "completion_domains"):
            if out[name][n] is not None:
                out[name][n] = [out[name][n][i] for i in kept]
        out[DROP].append(IS_EMPTY if len(filled) < 2 else IS_IDENTICAL if len(kept) < 2 else KEEP)
        out[EMPTY].append(len(texts) - len(filled))
        out[IDENTICAL].append(len(filled) - len(kept))
        content = sorted(f"{scores[i]!r} {text}" for text, i in best.items())
        out[KEY].append(_digest(normalize(batch["prompt"][n]), *content, *_template(batch, n)))
    return out


def _template(batch: Batch, n: int) -> list[str]:
    """What a chat template reads besides the messages of a row, if any."""
    return [canonical({name: batch[name][n]}) for name in TEMPLATE_COLUMNS if name in batch and batch[name][n]]


def is_empty(text: Text) -> bool:
    """Whether a completion is empty: only white space, or messages without content, tool calls or reasoning."""
    if isinstance(text, str):
        return not text.strip()
    return says_nothing(text)


def _digest(*parts: str) -> int:
    """A 64-bit hash of the parts: among ten million rows, the chance of a collision is 3 in a million."""
    whole = "\0".join(parts).encode("utf-8")
    return int.from_bytes(hashlib.blake2b(whole, digest_size=8).digest(), "little", signed=True)
