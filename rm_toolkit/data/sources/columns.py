"""
Preferences in columns with any names, in the common forms: the sources `jsonl` and `preference`.

- `chosen`, `rejected`; with or without `prompt` (otherwise it is what both share), `score_chosen`, `score_rejected`,
  `margin`;
- `completions` and `scores`, or completions that are objects with a text and a score (UltraFeedback);
- `response` and `score`, one response per row, neighboring rows with the same prompt joined (HelpSteer);
- in both, ranks instead of scores; the lowest rank is best;
- two responses and a signed preference, negative for the first (HelpSteer's preference files).

Texts are strings or lists of messages.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...errors import InputError, did_you_mean, name_list
from ..messages import read_template_kwargs, read_tools
from ..pairing import label_scores
from ..records import Place
from ..schema import (
    RawRow,
    Text,
    check_ranked,
    describe,
    known_keys,
    number_value,
    read_conversation,
    stored_texts,
    text_or_messages,
    text_value,
)
from .base import Record, Records, SourceOptions
from .column_names import is_rank
from .ratings import contradictions, kept
from .unread import ReadRecord, UnreadColumn, check_all_read, check_completion, form_advice, label_advice
from .values import in_range


# Our names, each with the names that public datasets use for it; --columns has priority.
COLUMNS: dict[str, tuple[str, ...]] = {
    "prompt": ("instruction", "context"),
    "chosen": (),
    "rejected": (),
    "score_chosen": (),
    "score_rejected": (),
    "margin": (),
    "completions": (),
    "scores": (),
    "ranks": (),
    "response": (),
    "score": ("overall_score", "helpfulness"),
    "rank": (),
    "domain": (),
    "tools": (),
    "chat_template_kwargs": (),
}
SIGNED = (("response_1", "response_2", "preference_strength"), ("response1", "response2", "overall_preference"))
# Scores with a range, recognized by other columns: HelpSteer's and UltraFeedback's.
RANGES = (("helpfulness", "correctness", 0, 4), ("overall_score", "fine-grained_score", 1, 10))
TEXT_KEYS = ("response", "text", "content", "answer")
SCORE_ADVICE = "Name its column: --columns score=…, or rank=… where 1 is best."
SCORES_ADVICE = "Name their column: --columns scores=…, or ranks=… where 1 is best."
ASKED = ("prompt", "tools", "chat_template_kwargs")  # shared by the responses to one prompt


class Grouped(dict):
    """Neighboring single responses to one prompt, checked and joined; its keys are our names."""


def check_columns(columns: dict[str, str]) -> None:
    """Raises an `InputError` for an unknown column."""
    for ours in columns:
        if ours not in COLUMNS:
            raise InputError(
                f"`columns`: '{ours}' is not one of our names, which are {name_list(COLUMNS)}.{did_you_mean(ours, COLUMNS)}"
            )
    for ours, of_ranks in (("score", "rank"), ("scores", "ranks"), ("score_chosen", ""), ("score_rejected", "")):
        theirs = columns.get(ours)
        if theirs is not None and is_rank(theirs):
            remedy = f"Write {of_ranks}={theirs}: lower is better." if of_ranks else "Leave it out."
            raise InputError(
                f"`columns`: {ours}={theirs} reads a rank as a score, but rank 1 is best, and higher scores are better. "
                f"{remedy}"
            )
        if of_ranks in columns and theirs is not None:
            raise InputError(
                f"`columns` names both {ours}={theirs} and {of_ranks}={columns[of_ranks]}; leave one out."
            )


def row(record: Record, place: Place, options: SourceOptions) -> RawRow:
    """Returns the row of a record, in any of the forms."""
    if isinstance(record, Grouped):
        check_ranked(record["completions"], record["scores"], ("response", "score"), place)
        return RawRow(**record)
    prompt = _find(record, "prompt", place, options)
    if prompt is not None:
        prompt = read_conversation(prompt, "prompt", place) if prompt != [] else None
    domain = _find(record, "domain", place, options)
    domain = None if domain is None else text_value(domain, "domain", place)
    tags = {"domain": domain, **_template(record, place, options)}
    given = {name: _find(record, name, place, options) for name in ("chosen", "rejected", "completions")}
    if given["chosen"] is not None and given["rejected"] is not None:
        pair = {name: given[name] for name in ("chosen", "rejected")}
        texts = [text_or_messages(text, name, place) for text, name in zip(stored_texts(pair, place), pair)]
        scores, margin = pair_scores(record, place, options)
        return RawRow(prompt, texts, scores, margin=margin, **tags)
    if given["completions"] is not None:
        texts, scores = _completions(record, given["completions"], place, options)
        contradicting = set() if "score" in options.columns else contradictions(given["completions"])
        return kept(RawRow(prompt, texts, scores, **tags), contradicting, options, place)
    for first, second, strength in SIGNED:
        if first in record and strength in record:
            texts = [text_or_messages(record.get(name), name, place) for name in (first, second)]
            signed = in_range(record[strength], strength, -3, 3, place)
            return RawRow(prompt, texts, [max(0.0, -signed), max(0.0, signed)], **tags)
    raise _no_preference(record, given, place, options)


def join_neighbors(records: Records, options: SourceOptions) -> Records:
    """Joins neighboring rows of the form `prompt`, `response`, `score`; passes all others on."""
    joined: Grouped | None = None
    start: Place | None = None
    for place, record in records:
        single = None
        try:
            if isinstance(record, dict) and is_single(record, options):
                single = _single(record, place, options)
        except InputError as error:
            if isinstance(error, UnreadColumn):
                raise
            record = error
        if joined is not None and (single is None or any(single[name] != joined[name] for name in ASKED)):
            yield start, joined
            joined = None
        if single is None:
            yield place, record
        elif joined is None:
            joined, start = single, place
        else:
            joined["completions"] += single["completions"]
            joined["scores"] += single["scores"]
    if joined is not None:
        yield start, joined


def is_single(record: Record, options: SourceOptions) -> bool:
    """Whether a row has one response and its score, and is joined with its neighbors."""
    names = {ours: options.columns.get(ours, ours) for ours in ("response", "chosen", "completions")}
    return names["response"] in record and names["chosen"] not in record and names["completions"] not in record


def _single(record: Record, place: Place, options: SourceOptions) -> Grouped:
    values = {name: _find(record, name, place, options) for name in ("prompt", "response", "score", "domain")}
    if values["prompt"] is None:
        raise place.error("there is `response`, but no `prompt`.", "Name its column: --columns prompt=….")
    score = _score(record, values["score"], place, options)
    if score is None:
        raise place.error("there is `response`, but no `score`.", SCORE_ADVICE)
    single = Grouped(
        prompt=read_conversation(values["prompt"], "prompt", place),
        completions=[text_or_messages(values["response"], "response", place)],
        scores=[score],
        domain=None if values["domain"] is None else text_value(values["domain"], "domain", place),
        **_template(record, place, options),
    )
    if isinstance(record, ReadRecord):
        check_all_read(record, RawRow(**single), place, mappable=True)
    return single


def _score(record: Record, score: Any, place: Place, options: SourceOptions) -> float | None:
    """Returns a response's score, or its rank converted to one (the lowest rank is best); `None` without either."""
    if score is not None:
        for name, beside, low, high in RANGES:
            if not options.columns and record.get("score") is None and name in record and beside in record:
                return in_range(score, name, low, high, place)
        return number_value(score, "score", place)
    rank = _find(record, "rank", place, options)
    return None if rank is None else 0.0 - number_value(rank, "rank", place)


def _template(record: Record, place: Place, options: SourceOptions) -> dict[str, Any]:
    """What a chat template reads besides the messages."""
    readers = {"tools": read_tools, "chat_template_kwargs": read_template_kwargs}
    try:
        return {
            name: None if name in options.ignore_columns else read(_find(record, name, place, options))
            for name, read in readers.items()
        }
    except InputError:
        raise
    except ValueError as error:
        raise place.error(f"{error}.") from error


def _find(record: Record, ours: str, place: Place, options: SourceOptions) -> Any:
    """Returns the value of our column, `None` if it is absent; a column named with --columns must exist."""
    if ours in options.columns:
        name = options.columns[ours]
        if name in record:
            return record[name]
        value: Any = dict(record)
        for part in name.split("."):  # question.full_text
            if not isinstance(value, dict) or part not in value:
                known = known_keys(record)
                remedy = did_you_mean(name, record) or "Use one of these."
                raise place.error(f"there is no column '{name}' (for `{ours}`), only {known}.", remedy)
            value = value[part]
        if isinstance(record, ReadRecord):
            record.read.add(name)
        return value
    for name in (ours, *COLUMNS[ours]):
        if record.get(name) is not None:
            return record[name]
    return None


def pair_scores(record: Record, place: Place, options: SourceOptions) -> tuple[list[float], float | None]:
    """Returns the scores of (chosen, rejected), 1 and 0 if there are none, and the margin if there is one."""
    found = [_find(record, name, place, options) for name in ("score_chosen", "score_rejected")]
    margin = _find(record, "margin", place, options)
    margin = None if margin is None else number_value(margin, "margin", place)
    return label_scores(*found, place), margin


def _completions(record: Record, texts: Any, place: Place, options: SourceOptions) -> tuple[list[Text], list[float]]:
    scores = _find(record, "scores", place, options)
    if scores is None and isinstance(texts, list) and texts and isinstance(texts[0], dict):
        check_ranked(texts, texts, ("completions", "completions"), place)
        pairs = list(_scored_objects(texts, place, options))
        texts, scores = [text for text, _ in pairs], [score for _, score in pairs]
    elif scores is None:
        ranks = _find(record, "ranks", place, options)
        if ranks is None:
            raise place.error("there are `completions`, but no `scores`.", SCORES_ADVICE)
        check_ranked(texts, ranks, ("completions", "ranks"), place)
        scores = [0.0 - number_value(rank, f"ranks[{n}]", place) for n, rank in enumerate(ranks)]
    check_ranked(texts, scores, ("completions", "scores"), place)
    texts = stored_texts({f"completions[{n}]": text for n, text in enumerate(texts)}, place)
    texts = [text_or_messages(text, f"completions[{n}]", place) for n, text in enumerate(texts)]
    return texts, [number_value(score, f"scores[{n}]", place) for n, score in enumerate(scores)]


def _scored_objects(entries: list[Any], place: Place, options: SourceOptions) -> Iterator[tuple[Any, Any]]:
    for number, entry in enumerate(entries):
        entry = ReadRecord(entry, options.ignore_columns) if isinstance(entry, dict) else entry
        name = next((key for key in TEXT_KEYS if isinstance(entry, dict) and key in entry), None)
        if name is None:
            raise place.error(
                f"`completions[{number}]` must have one of {name_list(TEXT_KEYS)}, got {describe(entry)}."
            )
        score = _score(entry, _find(entry, "score", place, options), place, options)
        if score is None:
            raise place.error(f"`completions[{number}]` has no score.", SCORE_ADVICE)
        check_completion(entry, f"completions[{number}]", place)
        yield entry[name], score


def _no_preference(record: Record, given: dict[str, Any], place: Place, options: SourceOptions) -> InputError:
    if {"chosen_ids", "rejected_ids"} <= record.keys():
        return place.error(
            "the rows are token ids (chosen_ids, rejected_ids), but datasets are built from texts.",
            "Give the texts, or name the file directly in a recipe: training and its test sets read token ids.",
        )
    half = [name for name in ("chosen", "rejected") if given[name] is not None]
    lacking = next((name for name in ("chosen", "rejected") if given[name] is None), "chosen")
    theirs = options.columns.get(lacking, lacking)
    if half and theirs in record:
        return place.error(f"`{theirs}` is {place.null}, so `{half[0]}` has no other response to compare with.")
    missing = f"`{half[0]}` has no partner" if half else "no preference found"
    return place.error(
        f"{missing}: needs chosen and rejected, completions and scores, or prompt, response and score; the keys are "
        f"{known_keys(record)}.",
        form_advice(record)
        or label_advice(record)
        or "Name them, for example --columns prompt=question chosen=good rejected=bad.",
    )
