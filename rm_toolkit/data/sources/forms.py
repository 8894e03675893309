"""The known forms: the columns that identify each, the source that reads it, and how."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import argilla


Fits = Callable[[Mapping[str, Any]], bool]


@dataclass(frozen=True)
class Form:
    """
    One known form.

    Args:
        name (`str`): Common name.
        source (`str`): The source that reads it.
        columns (`tuple[str, ...]`): Columns that identify it.
        reads (`str`): How it is read, in words.
        fits (`Callable`, *optional*): Whether the values are of the form, if the names do not decide.
    """

    name: str
    source: str
    columns: tuple[str, ...]
    reads: str
    fits: Fits | None = None


def _is_messages(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], Mapping)


def _is(kind: Any, *names: str) -> Fits:
    return lambda record: all(isinstance(record[name], kind) for name in names)


def _has(name: str, *keys: str) -> Fits:
    """Whether a column is a list of objects with these keys."""
    return lambda record: _is_messages(record[name]) and all(key in record[name][0] for key in keys)


def _hh(record: Mapping[str, Any]) -> bool:
    sides = [record["chosen"], record["rejected"]]
    return "prompt" not in record and all(isinstance(s, str) and s.lstrip().startswith("Human:") for s in sides)


def _one_turn(record: Mapping[str, Any]) -> bool:
    return isinstance(record["chosen"], Mapping) and isinstance(record["rejected"], Mapping)


def _texts(record: Mapping[str, Any]) -> bool:
    return all(isinstance(record[name], str) for name in ("chosen", "rejected"))


_NO_LABELS = {"prompt", "instruction", "source"}
_VOTE = "the winner's score is 1, the other's 0; a tie is 0.5 and 0.5, both bad 0 and 0"
_RATED = "chosen over rejected, with their ratings"
_LISTED = "prompt; the texts with a score each"
_RANKED = "prompt; the texts with a rank each, 1 is best"
# If several fit, the one whose columns include another's is used.
FORMS: tuple[Form, ...] = (
    Form("text-score", "text-score", ("text", "score"), "texts (prompt and response) with a score each", _is(list, "text")),
    Form("DSP", "dsp", ("query", "responses"), "query; --domain says whose answer is better", _is(Mapping, "responses")),
    Form("WebGPT", "webgpt", ("question", "answer_0", "answer_1", "score_0", "score_1"), "question; two scored answers"),
    Form("GPT-4-LLM", "gpt4llm", ("user_input", "responses_and_scores"), "user_input; responses with a score each"),
    Form("GPT-4-LLM", "gpt4llm", ("user_input", "completion_a", "completion_b"), "user_input; completion_a over completion_b"),
    Form("HH-RLHF", "hh", ("chosen", "rejected"), "two dialogues; what they share is the prompt", _hh),
    Form("TRL preference", "preference", ("chosen", "rejected"), "chosen over rejected; what both share is the prompt"),
    Form("TRL preference", "preference", ("prompt", "chosen", "rejected"), "prompt; chosen over rejected"),
    Form(
        "Skywork",
        "preference",
        ("chosen", "rejected", "source"),
        "chosen over rejected; the turns that both share are the prompt",
        lambda record: "prompt" not in record and _is(list, "chosen", "rejected")(record),
    ),
    Form(
        "UltraFeedback, binarized",
        "preference",
        ("prompt", "chosen", "rejected", "score_chosen", "score_rejected"),
        "prompt; chosen over rejected, with their scores",
    ),
    Form("Alpaca", "alpaca", ("instruction", "chosen", "rejected"), "instruction; chosen over rejected", _texts),
    Form(
        "Alpaca",
        "alpaca",
        ("instruction", "input", "chosen", "rejected"),
        "prompt = instruction, then input (system and history before it, if any); chosen over rejected",
        _texts,
    ),
    Form("question and answers", "alpaca", ("question", "chosen", "rejected"), "question; chosen over rejected", _texts),
    Form("question and answers", "alpaca", ("query", "chosen", "rejected"), "query; chosen over rejected", _texts),
    Form("question and answers", "alpaca", ("input", "chosen", "rejected"), "input; chosen over rejected", _texts),
    Form(
        "Orca pairs",
        "alpaca",
        ("system", "question", "chosen", "rejected"),
        "system before the question; chosen over rejected",
        _texts,
    ),
    Form(
        "Orca pairs of distilabel",
        "alpaca",
        ("system", "input", "chosen", "rejected"),
        "system before the input; chosen over rejected, `status` tie as a tie",
        lambda record: _texts(record) and "instruction" not in record,
    ),
    Form("ShareGPT", "sharegpt", ("conversations", "chosen", "rejected"), "conversations; chosen over rejected turn"),
    Form("ShareGPT", "sharegpt", ("messages", "chosen", "rejected"), "messages; chosen over rejected turn", _one_turn),
    Form("OpenAssistant trees", "oasst", ("message_tree_id", "prompt"), "each message with ranked replies, 0 is best", _is(Mapping, "prompt")),
    Form("OpenAssistant messages", "oasst", ("message_id", "parent_id", "text", "role", "rank"), "each message with ranked replies, 0 is best"),
    Form("Nectar", "nectar", ("prompt", "answers"), "prompt; answers with a rank each, 1 is best", _has("answers", "answer", "rank")),
    Form("SHP", "shp", ("history", "human_ref_A", "human_ref_B", "labels"), "history; labels 1 prefers A, 0 prefers B; scores are votes"),
    Form(
        "PKU-SafeRLHF",
        "pku-saferlhf",
        ("prompt", "response_0", "response_1", "better_response_id"),
        "prompt; better_response_id says which response is better (--label safer reads safer_response_id instead)",
    ),
    Form(
        "PKU-SafeRLHF",
        "pku-saferlhf",
        ("prompt", "response_0", "response_1", "safer_response_id"),
        "prompt; safer_response_id says which response is better",
        lambda record: record.get("better_response_id") is None,
    ),
    Form("Chatbot Arena / MT-Bench", "arena", ("conversation_a", "conversation_b", "winner"), f"what both share is the prompt; {_VOTE}"),
    Form("Chatbot Arena", "arena", ("prompt", "response_a", "response_b", "winner_model_a", "winner_model_b"), f"prompt and responses by turns; {_VOTE}"),
    Form("Chatbot Arena", "arena", ("prompt", "response_a", "response_b", "winner"), f"prompt and responses; {_VOTE}"),
    Form("Argilla", "argilla", (), "the fields that a question ranks or chooses among; the mean of all submitted answers", lambda record: bool(argilla.questions(dict(record)))),
    Form("Label Studio", "label-studio", ("data", "annotations"), "the texts of `data` that were compared; the mean of all annotations", _is(list, "annotations")),
    Form("distilabel", "distilabel", ("generations", "ratings"), "instruction; generations with a rating each", _is(list, "generations")),
    Form("distilabel", "distilabel", ("generations", "rating"), "instruction; generations with a rating each", lambda r: isinstance(r["rating"], list) and "chosen" not in r),
    Form(
        "distilabel",
        "distilabel",
        ("instruction", "generations", "ratings", "chosen", "rejected"),
        "instruction; chosen over rejected, with their ratings (--ignore-columns chosen rejected reads all generations)",
    ),
    Form("Argilla preferences", "distilabel", ("chosen_response", "rejected_response"), "instruction; chosen over rejected, with their ratings"),
    Form("Capybara of distilabel", "distilabel", ("chosen", "rejected", "rating_chosen", "rating_rejected"), _RATED),
    Form("rated pairs", "distilabel", ("chosen", "rejected", "chosen-rating", "rejected-rating"), _RATED),
    Form("rated pairs", "distilabel", ("chosen", "rejected", "chosen_rating", "rejected_rating"), _RATED),
    Form("scored pairs", "distilabel", ("chosen", "rejected", "chosen_score", "rejected_score"), "chosen over rejected, with their scores"),
    Form(
        "UltraFeedback",
        "ultrafeedback",
        ("instruction", "completions"),
        "instruction; completions with overall_score (--label fine-grained_score reads that instead)",
        _has("completions", "response", "overall_score"),
    ),
    Form("HelpSteer", "helpsteer", ("prompt", "response", "helpfulness"), "prompt; neighbouring responses, scored by helpfulness"),
    Form("HelpSteer2 preferences", "helpsteer", ("prompt", "response_1", "response_2", "preference_strength"), "prompt; a negative preference_strength prefers response_1"),
    Form("HelpSteer3", "helpsteer", ("context", "response1", "response2", "overall_preference"), "context; a negative overall_preference prefers response1"),
    Form("scored completions", "preference", ("completions", "scores"), _LISTED),
    Form("ranked completions", "preference", ("completions", "ranks"), _RANKED),
    Form("scored responses, one a row", "preference", ("prompt", "response", "score"), "neighbouring rows of one prompt; higher is better"),
    Form("ranked responses, one a row", "preference", ("prompt", "response", "rank"), "neighbouring rows of one prompt; 1 is best"),
    Form("lists of responses", "ranked-lists", ("responses", "ranks"), _RANKED, _is(list, "responses", "ranks")),
    Form("lists of responses", "ranked-lists", ("responses", "rank"), _RANKED, _is(list, "responses", "rank")),
    Form("lists of responses", "ranked-lists", ("responses", "scores"), _LISTED, _is(list, "responses", "scores")),
    Form("lists of responses", "ranked-lists", ("responses", "ratings"), _LISTED, _is(list, "responses", "ratings")),
    Form("lists of responses", "ranked-lists", ("responses", "rewards"), _LISTED, _is(list, "responses", "rewards")),
    Form("lists of answers", "ranked-lists", ("answers", "ranks"), _RANKED, _is(list, "answers", "ranks")),
    Form("lists of answers", "ranked-lists", ("answers", "scores"), _LISTED, _is(list, "answers", "scores")),
)  # fmt: skip


def fitting_forms(records: Sequence[Mapping[str, Any]]) -> list[Form]:
    """
    Returns the possible forms of some records of one file, without those whose columns are part of another's.

    Args:
        records (`Sequence[dict]`): The first records of the file. A column counts if one of them has a value in it.
    """
    present = {name for record in records for name, value in record.items() if value is not None}
    fitting = [form for form in FORMS if present.issuperset(form.columns) and _fits(form, records)]
    return [form for form in fitting if not any(_is_part(form, other) for other in fitting)]


def rivals(forms: Sequence[Form]) -> tuple[Form, Form] | None:
    """Returns two forms whose labels are in different columns; `None` if all forms agree."""
    for first, second in itertools.combinations(forms, 2):
        labels = [set(form.columns) - _NO_LABELS for form in (first, second)]
        if first.source != second.source or not labels[0] & labels[1]:
            return first, second
    return None


def _fits(form: Form, records: Sequence[Mapping[str, Any]]) -> bool:
    if form.fits is None:
        return True
    whole = [r for r in records if all(r.get(name) is not None for name in form.columns)]
    return any(form.fits(record) for record in whole)


def _is_part(form: Form, other: Form) -> bool:
    own, others = set(form.columns), set(other.columns)
    aside = {"prompt", "source"}  # the prompt's column and the row's origin do not make a different form
    if own - aside < others - aside:
        return True
    return own < others or (own == others and form.fits is None and other.fits is not None)
