"""
Argilla records with a ranking of, or a choice among, their text fields.

- 1.x, as `FeedbackDataset.push_to_huggingface` and `format_as("datasets")` write them: fields and questions are columns, a
  question is a list of `{"user_id", "value", "status"}`, a ranking's value a list of `{"rank", "value"}`, 1 best; see the card of
  huggingface.co/datasets/nataliaElv/oasst_response_comparison. Columns `QUESTION-suggestion` are not read.
- 2.x, as `Dataset.to_hub` and `records.to_datasets` write them: `QUESTION.responses` and `QUESTION.responses.status`; a ranking's
  value may be the list of names, best first.
- Nested, as `records.to_json` writes them: `fields` and `responses`.

Several rating questions, named like the fields (`rating-response1`), are one question.

Only submitted answers count; the mean rank (share of votes) of several annotators is taken. Equal ranks are a tie.
"""

from __future__ import annotations

import re
from typing import Any

from ..places import Place
from ..schema import RawRow, describe, field, number_value, text_or_messages
from .base import Record, Source, SourceOptions
from .values import chosen_label, in_range
from .votes import for_one, mean_scores


ASKED = ("prompt", "instruction", "question", "query", "input", "context", "text")
TIES = ("tie", "equal", "both", "same", "neither")
_STEM = re.compile(r"[\W_]*(\d+|[a-dA-D])$")  # response_a and response_b, reply-1 and reply-2
RATED = (0, 10)  # range of a rating question of Argilla
ASIDE = "answers of annotators that were not submitted, not counted"
Answer = tuple[Any, str | None]  # the answer and its status


def row(record: Record, place: Place, options: SourceOptions) -> RawRow:
    """Returns the row of the compared fields."""
    asked = questions(record)
    if not asked:
        raise place.error("no question of Argilla with answers was found.")
    label = chosen_label(options.label, list(asked), place, "questions")
    for name in list(record):  # suggestions and users of the questions: known, but not read
        if any(name == question or name.startswith((f"{question}-", f"{question}.")) for question in asked):
            record.get(name)
    fields = field(record, "fields", place) if isinstance(record.get("fields"), dict) else record
    answers = asked[label]
    submitted = [value for value, status in answers if status in (None, "submitted") and value is not None]
    if not submitted:
        raise place.error(f"the question '{label}' has no submitted answer.")
    names = _compared(fields, submitted)
    judged = [_scores(value, names, label, place) for value in submitted]
    names = [name for name in names if any(name in scores for scores in judged)]
    if len(names) < 2:
        raise place.error(f"the question '{label}' compares {len(names)} fields; a preference needs at least two.")
    prompt = next((name for name in ASKED if fields.get(name) is not None and name not in names), None)
    if prompt is None:
        raise place.error(f"no prompt was found, such as {', '.join(ASKED[:3])}.")
    return RawRow(
        prompt=text_or_messages(fields[prompt], prompt, place),
        completions=[text_or_messages(fields[name], name, place) for name in names],
        scores=mean_scores(judged, names),
        notes=(ASIDE,) * (len(answers) - len(submitted)),
    )


def questions(record: dict[str, Any]) -> dict[str, list[Answer]]:
    """Returns the questions of a record that compare its fields, with all their answers."""
    found: dict[str, list[Answer]] = {}
    responses = record.get("responses")
    if isinstance(record.get("fields"), dict) and responses:
        found = _nested(responses)
        fields = record["fields"]
    else:
        fields = record
        for name, value in dict.items(record):
            if _is_answers(value):
                found[name] = [(answer.get("value"), answer.get("status")) for answer in value]
            elif name.endswith(".responses") and isinstance(value, list) and value:
                statuses = dict.get(record, f"{name}.status") or [None] * len(value)
                found[name.removesuffix(".responses")] = list(zip(value, statuses))
    named = {name: [(_named(value, fields), status) for value, status in found[name]] for name in found}
    comparing = {name: answers for name, answers in named.items() if _compares(answers, fields)}
    return comparing or _ratings(named, fields)


def _ratings(found: dict[str, list[Answer]], fields: dict[str, Any]) -> dict[str, list[Answer]]:
    """The questions that rate one field each (`rating-response1`), grouped by the prefix before the field name."""
    rated: dict[str, dict[str, list[Answer]]] = {}
    for question, answers in found.items():
        values = [value for value, _ in answers if value is not None]
        if not values or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
            continue
        names = [name for name in dict.keys(fields) if _plain(question).endswith(_plain(name)) and name != question]
        if len(names) == 1:
            prefix = _plain(question).removesuffix(_plain(names[0]))
            rated.setdefault(prefix, {})[names[0]] = answers
    return {
        prefix: [(None if v is None else {name: v}, status) for name in of_fields for v, status in of_fields[name]]
        for prefix, of_fields in rated.items()
        if prefix and len(of_fields) > 1
    }


def _named(value: Any, fields: dict[str, Any]) -> Any:
    """An answer with field titles converted to field names: `Response 2` is response-2."""
    if isinstance(value, list):
        return [_named(entry, fields) for entry in value]
    if isinstance(value, dict) and isinstance(value.get("value"), str):
        return {**value, "value": _named(value["value"], fields)}
    if not isinstance(value, str) or dict.__contains__(fields, value):
        return value
    meant = [name for name in dict.keys(fields) if _plain(name) == _plain(value)]
    return meant[0] if len(meant) == 1 else value


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()


def _nested(responses: Any) -> dict[str, list[Answer]]:
    found: dict[str, list[Answer]] = {}
    if isinstance(responses, dict):  # 2.x: question -> answers
        for name, answers in responses.items():
            if _is_answers(answers):
                found[name] = [(answer.get("value"), answer.get("status")) for answer in answers]
        return found
    for response in responses if isinstance(responses, list) else ():  # 1.x: one entry per person
        values = response.get("values") if isinstance(response, dict) else None
        for name, value in (values or {}).items():
            value = value.get("value") if isinstance(value, dict) else value
            found.setdefault(name, []).append((value, response.get("status")))
    return found


def _is_answers(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(a, dict) and "value" in a and "user_id" in a for a in value)
    )


def _compares(answers: list[Answer], fields: dict[str, Any]) -> bool:
    """Whether the answers name fields of the record (ratings and comments do not)."""
    values = [value for value, _ in answers if value is not None]
    return not values or any(_is_compared(name, values) for name in dict.keys(fields))


def _compared(fields: dict[str, Any], values: list[Any]) -> list[str]:
    """The compared fields: those named in a ranking, or a chosen one with those that have similar names."""
    names = [name for name in fields if _is_compared(name, values)]
    if len(names) != 1 or any(isinstance(value, list) for value in values):
        return names
    stem = _STEM.sub("", names[0])
    return [name for name, text in fields.items() if _STEM.sub("", name) == stem and isinstance(text, str | list)]


def _is_compared(name: str, values: list[Any]) -> bool:
    for value in values:
        if isinstance(value, dict) and name in value:  # a rating
            return True
        entries = value if isinstance(value, list) else [value]
        if any(name == (entry.get("value") if isinstance(entry, dict) else entry) for entry in entries):
            return True
    return False


def _scores(value: Any, names: list[str], label: str, place: Place) -> dict[str, float]:
    """The scores of one annotator's answer, higher is better."""
    if isinstance(value, str):
        if value.lower() in TIES:
            return for_one(names, None)
        if value not in names:
            raise place.error(f"the answer '{value}' to '{label}' is not a field of the record.")
        return for_one(names, value)
    if isinstance(value, dict) and len(value) == 1 and value.keys() <= set(names):
        return {name: in_range(rating, label, *RATED, place) for name, rating in value.items()}
    if not isinstance(value, list) or not value:
        raise place.error(f"an answer to '{label}' must be a ranking or a choice, got {describe(value)}.")
    if all(isinstance(entry, str) for entry in value):  # best first
        return {entry: -float(position) for position, entry in enumerate(value, 1)}
    scores = {}
    for entry in value:
        if not isinstance(entry, dict):
            raise place.error(f"a ranking of '{label}' must be a list of 'rank' and 'value', got {describe(entry)}.")
        rank = number_value(field(entry, "rank", place), f"{label}.rank", place)
        if rank < 1:
            raise place.error(
                f"`{label}.rank` is {rank:g}, but 1 is the best; other numbers mean that there is no judgment."
            )
        scores[field(entry, "value", place)] = -rank
    return scores


SOURCE = Source(
    "argilla",
    "Argilla records: text fields, and a question that ranks them or chooses one",
    row,
    "human-assistant",
    accepts=("label",),
)
