"""
The row formats that the stages share: Arrow features of pairs and of ranked rows, and checks with clear errors.

Both have strings (`text`) or lists of messages (`chat`). In text, the whole text is exactly prompt + completion.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import InputError, did_you_mean, name_list, one_line
from .exact_json import use_exact_json
from .messages import TEMPLATE_COLUMNS, Message, read_message
from .places import Place
from .tables import Cell
from .turns import as_message, is_turn, looks_stored, stored_conversation


if TYPE_CHECKING:
    from datasets import Features


Text = str | list[Message]

SHAPES = ("pairs", "ranked")
FORMATS = ("text", "chat")
TAGS = ("domain", "source", "prompt_id")
PAIR_COLUMNS = ("prompt", "chosen", "rejected", "score_chosen", "score_rejected")
RANKED_COLUMNS = ("prompt", "completions", "scores")
# Present only if the data has them.
OPTIONAL_COLUMNS = ("margin", "rejected_domain", "completion_domains", *TEMPLATE_COLUMNS)


@dataclass(frozen=True)
class RawRow:
    """
    One raw record after reading: a prompt and K scored completions, in the source's form.

    Args:
        prompt (`str` or list of messages, *optional*): `None` if the completions contain the prompt (whole dialogues).
        completions (list of K `str` or of K message lists): In source order.
        scores (list of K `float`): Raw, higher is better.
        completion_domains (list of K `str`, *optional*): Domain of each completion. If given, only the best-scored
            one was compared with the others, so no ties are counted among the others.
        margin (`float`, *optional*): Wanted reward distance; only for two completions.
        domain (`str`, *optional*): Tag of the row, if the source knows it.
        tools (list of `dict`, *optional*): JSON schemas of the tools that a chat template may list.
        chat_template_kwargs (`dict`, *optional*): More variables for a chat template.
        system (`str`, *optional*): Text before the prompt: a system message in chat, a separate paragraph in text.
        notes (`tuple` of `str`): Notes about the row to be counted and printed, each worded for "NUMBER …".
    """

    prompt: Text | None
    completions: list[Text]
    scores: list[float]
    completion_domains: list[str] | None = None
    margin: float | None = None
    domain: str | None = None
    tools: list[Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    system: str | None = None
    notes: tuple[str, ...] = ()


def text_type(format: str, free: bool = False) -> Any:
    """
    Returns the Arrow feature of one text.

    Args:
        format (`str`): `text` for a string, `chat` for a list of messages.
        free (`bool`): Whether messages have fields besides role and content: each is then stored as JSON, so that
            Arrow adds no nulls for fields of other messages.
    """
    from datasets import Json, List, Value

    if format == "text":
        return Value("string")
    if free:
        use_exact_json()
    return List(Json() if free else {"role": Value("string"), "content": Value("string")})


def pair_features(format: str, free: bool = False) -> Features:
    """Returns the features of pairs, all optional columns included; see `text_type`."""
    from datasets import Features, Value

    texts = {name: text_type(format, free) for name in PAIR_COLUMNS[:3]}
    numbers = {name: Value("float64") for name in (*PAIR_COLUMNS[3:], "margin")}
    tags = {name: Value("string") for name in ("rejected_domain", *TAGS)}
    return Features({**texts, **numbers, **tags, **_template_features(format, free)})


def ranked_features(format: str, free: bool = False) -> Features:
    """Returns the features of ranked rows, all optional columns included; see `text_type`."""
    from datasets import Features, List, Value

    return Features(
        {
            "prompt": text_type(format, free),
            "completions": List(text_type(format, free)),
            "scores": List(Value("float64")),
            "completion_domains": List(Value("string")),
            "margin": Value("float64"),
            **{name: Value("string") for name in TAGS},
            **_template_features(format, free),
        }
    )


def _template_features(format: str, free: bool) -> dict[str, Any]:
    from datasets import Json

    return {name: Json() for name in TEMPLATE_COLUMNS} if free and format == "chat" else {}


def features_like(features: Mapping[str, Any], shape: str, format: str | None = None) -> Features:
    """
    Returns the features of pairs or ranked rows, all optional columns included, for messages as stored in a built
    dataset.

    Args:
        features (`datasets.Features`): Features of the built dataset.
        shape (`str`): `pairs` or `ranked`.
        format (`str`, *optional*): A format that differs from the dataset's.
    """
    make = pair_features if shape == "pairs" else ranked_features
    return make(format or find_format(features), has_free_messages(features))


def has_free_messages(features: Mapping[str, Any]) -> bool:
    """Whether the messages of a built dataset are JSON, see `text_type`."""
    return type(getattr(features["prompt"], "feature", None)).__name__ == "Json"


def extend_features(features: Features, **columns: str) -> Features:
    """Returns the features with additional columns, given by the names of their Arrow types."""
    from datasets import Features, Value

    return Features({**features, **{name: Value(dtype) for name, dtype in columns.items()}})


def find_shape(columns: list[str]) -> str | None:
    """Returns `pairs` or `ranked` for the columns of a built dataset; `None` for anything else."""
    if set(PAIR_COLUMNS + TAGS) <= set(columns):
        return "pairs"
    return "ranked" if set(RANKED_COLUMNS + TAGS) <= set(columns) else None


def find_format(features: Mapping[str, Any]) -> str:
    """Returns `text` or `chat` for the features of a built dataset."""
    return "text" if getattr(features["prompt"], "dtype", None) == "string" else "chat"


def field(record: Mapping[str, Any], key: str, place: Place) -> Any:
    """Returns `record[key]`; raises an `InputError` that lists the existing keys."""
    if key not in record:
        known = known_keys(record)
        raise place.error(f"there is no key '{key}', only {known}.", did_you_mean(key, record) or None)
    return record[key]


def known_keys(record: Mapping[str, Any], most: int = 12) -> str:
    """Returns the keys of a record for an error message."""
    keys = name_list(one_line(str(key), 40) for key in list(record)[:most]) or "no keys at all"
    return f"{keys} and {len(record) - most} more" if len(record) > most else keys


def text_value(value: Any, name: str, place: Place) -> str:
    """Returns `value` if it is a string that can be stored, else raises an `InputError`."""
    if not isinstance(value, str):
        raise place.error(f"`{name}` must be a string, got {described(value, name, place)}.")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        code = ord(value[error.start])
        raise place.error(f"`{name}` has half of a surrogate pair (\\u{code:04x}), which is not text.") from error
    return str(value)


def text_or_messages(value: Any, name: str, place: Place) -> Text:
    """
    Returns `value` if it is a string or a list of messages, else raises an `InputError`. A single message becomes a
    list of one, and turns of ShareGPT become messages.

    Messages keep every field that is not null, see [`~rm_toolkit.data.messages.read_message`].
    """
    if is_turn(value):
        value = [value]
    if not isinstance(value, list):
        if isinstance(value, str):
            return text_value(value, name, place)
        raise place.error(f"`{name}` must be a string or a list of messages, got {describe(value)}.")
    if not value:
        raise place.error(f"`{name}` is an empty list of messages.")
    messages = []
    for number, message in enumerate(value, 1):

        def check_string(text: Any, part: str, number: int = number) -> str:
            return text_value(text, f"{name}[{number - 1}].{part}", place)

        try:
            messages.append(read_message(as_message(message), check_string))
        except InputError:
            raise
        except ValueError as error:
            raise place.error(f"`{name}`, message {number}: {error}, got {describe(message)}.") from error
    return messages


def read_conversation(value: Any, name: str, place: Place) -> Text:
    """Like [`text_or_messages`], for a prompt: a conversation stored as JSON text is parsed."""
    return text_or_messages(stored_conversation(value) or value, name, place)


def stored_texts(texts: Mapping[str, Any], place: Place) -> list[Any]:
    """
    Returns the texts of one row, with conversations stored as JSON text parsed.

    Args:
        texts (`dict`): Name of a column -> text or conversation.
        place (`Place`): Place of the row, for the error.

    Raises:
        `InputError`: if some of them are conversations as JSON text, and others are not.
    """
    parsed = {name: stored_conversation(text) for name, text in texts.items() if looks_stored(text)}
    good = [name for name, turns in parsed.items() if turns is not None]
    others = [name for name, text in texts.items() if name not in good and isinstance(text, str)]
    if good and others:
        raise place.error(f"`{good[0]}` is a conversation stored as JSON text, but `{others[0]}` is not.")
    if not good:
        return list(texts.values())
    return [parsed.get(name, text) for name, text in texts.items()]


def number_value(value: Any, name: str, place: Place) -> float:
    """Returns `value` as a finite float, else raises an `InputError`; a CSV cell may have it as text."""
    if isinstance(value, Cell):
        try:
            value = float(value)
        except ValueError:
            value = str(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise place.error(f"`{name}` must be a number, got {described(value, name, place)}.")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise place.error(f"`{name}` is {number}; scores must be finite.")
    return number


def check_ranked(texts: Any, scores: Any, names: tuple[str, str], place: Place) -> None:
    """Raises an `InputError` unless `texts` and `scores` are lists of the same length, at least 2."""
    for value, name in zip((texts, scores), names):
        if not isinstance(value, list):
            raise place.error(f"`{name}` must be a list, got {describe(value)}.")
    if len(texts) != len(scores):
        raise place.error(
            f"`{names[0]}` has {len(texts)} entries and `{names[1]}` has {len(scores)}; they must have the same length."
        )
    if len(texts) < 2:
        raise place.error(f"`{names[0]}` has {len(texts)} entry; a preference needs at least two.")


def describe(value: Any) -> str:
    """Returns type and (shortened) value for an error message: `the number 3`, `null`, `a list of 2`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"the number {one_line(str(value), 40)}"
    if isinstance(value, str):
        return f"the string '{one_line(value, 40)}'"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return "an object" if isinstance(value, Mapping) else type(value).__name__


def described(value: Any, name: str, place: Place) -> str:
    """As [`describe`], of a column's value: in a table, a null is an empty cell; one within a list is not."""
    return place.null if value is None and "[" not in name else describe(value)


def check_choice(name: str, value: Any, known: tuple[str, ...]) -> None:
    """Raises an `InputError` unless `value` is one of `known`."""
    if value not in known:
        raise InputError(f"`{name}` is '{value}', but must be one of {name_list(known)}.{did_you_mean(value, known)}")
