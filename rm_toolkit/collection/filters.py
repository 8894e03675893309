"""Which answers are fit for training: others are counted and left out by row, but stay in the journal."""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Annotated

from ..output.nested_ranges import ListOf
from ..output.ranges import Choice, Text
from ..output.stated_ranges import check_ranges
from .journal import Answer
from .number_ranges import LENGTH_OUTLIERS, MAX_SIMILARITY
from .refusal_patterns import TimedPattern


# Searched at the beginning of an answer, ignoring case. An apology that is part of the task ("I am sorry to hear that
# your order is late") is not a refusal, so each pattern requires the inability too.
REFUSAL_PATTERNS = (
    r"\b(i'?m|i am|we are|my apologies|i apologi[sz]e|sorry)\b.{0,60}\b(can'?t|cannot|can not|unable|not able|won'?t)\b",
    r"\b(i|we)(?: just| simply| really)? (can'?t|cannot|can not|won'?t|am unable to|am not able to|'m unable to|'m not able to) "
    r"(help(?! but\b| \w+ing\b)|assist|comply|provide|fulfil|answer|create|write|generate|do|discuss|engage|support|share|access)\b",
    r"\bas an? (ai|artificial intelligence|language model|large language model|virtual assistant)\b.{0,80}"
    r"\b(can'?t|cannot|can not|unable|not able|not capable|don'?t have|do not have|don'?t possess|do not possess|not possible)\b",
    r"\bi (don'?t|do not) have (access|the ability|the capability)\b",
    r"\b(against|violates?) (my|our|the) (guidelines|policy|policies|programming|principles)\b",
)
REFUSAL_WINDOW = 200
# With fewer answers than this, outliers in length cannot be judged.
ENOUGH_FOR_LENGTHS = 20
# `length`: far longer or shorter than the domain's others; `alike`: near-identical to another answer of its row.
REASONS = ("refusal", "empty", "truncated", "length", "alike")


@dataclass(frozen=True)
class FilterOptions:
    """
    What to leave out.

    Args:
        keep (`tuple[str, ...]`): Those of `REASONS` that are not filtered.
        refusal_patterns (`tuple[str, ...]`): Regular expressions in addition to `REFUSAL_PATTERNS`.
        max_similarity (`float`): Two answers of one row that are more alike (share of equal characters in order, 0 to 1)
            are near-identical.
        length_outliers (`float`): An answer is an outlier if the logarithm of its length is further from its domain's
            median than this many median absolute deviations (scaled to standard deviations).
    """

    keep: Annotated[tuple[str, ...], ListOf(Choice(REASONS))] = ()
    refusal_patterns: Annotated[tuple[str, ...], ListOf(Text(empty=False))] = ()
    max_similarity: Annotated[float, MAX_SIMILARITY] = 0.9
    length_outliers: Annotated[float, LENGTH_OUTLIERS] = 5.0

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass
class FilterCounts:
    """
    Counts of the filters.

    Args:
        answers (`dict[str, Counter]`): Reason -> domain -> number of answers; an answer counts once, in the order of
            `REASONS`.
        rows (`Counter`): Reason -> rows left out for it; a row counts once, in the same order.
        kept (`int`): Rows kept.
    """

    answers: dict[str, Counter] = field(default_factory=lambda: {reason: Counter() for reason in REASONS})
    rows: Counter = field(default_factory=Counter)
    kept: int = 0


def filter_rows(
    rows: Sequence[dict[str, Answer]], normals: Sequence[str | None], options: FilterOptions, normal: str
) -> tuple[list[bool], FilterCounts]:
    """
    Filters rows.

    Args:
        rows (`Sequence[dict[str, Answer]]`): Domain -> answer, of each row.
        normals (`Sequence[str]`): The instruction's own answer of each row, if it has one: compared, but not filtered.
        options (`FilterOptions`): What to leave out.
        normal (`str`): Name of that answer in the counts.

    Returns:
        `tuple`: Whether each row is kept, and the counts.
    """
    patterns = [re.compile(text, re.IGNORECASE | re.DOTALL) for text in REFUSAL_PATTERNS]
    patterns += [TimedPattern(text) for text in options.refusal_patterns]
    counts = FilterCounts()
    found = [{domain: _own_reason(answer, patterns) for domain, answer in row.items()} for row in rows]
    found = [{d: None if reason in options.keep else reason for d, reason in reasons.items()} for reasons in found]
    if "length" not in options.keep:
        _find_outliers(rows, found, options.length_outliers)
    kept = []
    for row, reasons, own in zip(rows, found, normals):
        for domain, reason in reasons.items():
            if reason:
                counts.answers[reason][domain] += 1
        present = {reason for reason in reasons.values() if reason}
        if not present and "alike" not in options.keep:
            texts = {domain: answer.text for domain, answer in row.items()} | ({normal: own} if own else {})
            alike = near_identical(texts, options.max_similarity)
            counts.answers["alike"].update(alike)
            present |= {"alike"} if alike else set()
        first = next((reason for reason in REASONS if reason in present), None)
        if first:
            counts.rows[first] += 1
        kept.append(first is None)
    counts.kept = sum(kept)
    return kept, counts


def is_refusal(text: str, patterns: Sequence[re.Pattern[str] | TimedPattern]) -> bool:
    """Whether a text begins like a refusal. Curly apostrophes are treated as straight ones."""
    begin = text[:REFUSAL_WINDOW].replace("’", "'")
    return any(pattern.search(begin) for pattern in patterns)


def near_identical(texts: dict[str, str], max_similarity: float) -> set[str]:
    """
    Returns the names of texts that are more similar to another one than `max_similarity`; ignores case and spaces.
    """
    from rapidfuzz import fuzz

    plain = {name: " ".join(text.casefold().split()) for name, text in texts.items()}
    alike: set[str] = set()
    for first, second in combinations(plain, 2):
        limit = 100 * max_similarity
        if fuzz.ratio(plain[first], plain[second], score_cutoff=limit) > min(limit, 100 - 1e-9):
            alike |= {first, second}
    return alike


def _own_reason(answer: Answer, patterns: Sequence[re.Pattern[str] | TimedPattern]) -> str | None:
    if answer.refused or answer.finish_reason == "content_filter" or is_refusal(answer.text, patterns):
        return "refusal"
    if not answer.text:
        return "empty"
    return "truncated" if answer.finish_reason == "length" else None


def _find_outliers(rows: Sequence[dict[str, Answer]], found: list[dict[str, str | None]], limit: float) -> None:
    """Marks outliers in length among the answers that passed the other filters, each relative to its own domain."""
    for domain in {name for row in rows for name in row}:
        numbers = [n for n, row in enumerate(rows) if domain in row and found[n][domain] is None and row[domain].text]
        if len(numbers) < ENOUGH_FOR_LENGTHS:
            continue
        logs = {n: math.log(len(rows[n][domain].text)) for n in numbers}
        median = statistics.median(logs.values())
        # 1.4826: for a normal distribution, the scaled median absolute deviation is the standard deviation.
        spread = 1.4826 * statistics.median(abs(value - median) for value in logs.values())
        for n, value in logs.items():
            if spread and abs(value - median) > limit * spread:
                found[n][domain] = "length"
