"""Allowed labels of a form: numbers in a range, or one of several words; anything else is refused with its row."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import name_list
from ...output.strict_json import strict_json
from ..places import Place
from ..schema import describe, described, number_value, text_value


def in_range(value: Any, name: str, low: float, high: float, place: Place) -> float:
    """
    Returns a score or a rank unchanged.

    Raises:
        `InputError`: if it is not a number, or is outside the range of the form: such numbers (-1, -100, 99) mean that
            there is no judgment.
    """
    number = number_value(value, name, place)
    if not low <= number <= high:
        reach = f"at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        raise place.error(
            f"`{name}` is {number:g}, but must be {reach} in this form; other numbers mean that there is no judgment."
        )
    return number


def one_of(value: Any, name: str, known: Mapping[Any, Any], place: Place) -> Any:
    """
    Returns the meaning of a label.

    Args:
        value: The label; a number may be given in digits.
        name (`str`): Name of its column.
        known (`dict`): Label in lower case, or number -> its meaning.
        place (`Place`): Its place.

    Raises:
        `InputError`: for any other label.
    """
    label: Any = value.strip().lower() if isinstance(value, str) else value
    if isinstance(label, str) and label.lstrip("-").isdigit():
        label = int(label)
    if isinstance(label, bool) and {0, 1} <= known.keys():
        label = int(label)
    if isinstance(label, float) and label == int(label):
        label = int(label)
    if isinstance(label, bool) or label is None or isinstance(label, (list, dict)) or label not in known:
        words = ", ".join(f"'{key}'" if isinstance(key, str) else str(key) for key in known)
        raise place.error(f"`{name}` must be one of {words}, got {described(value, name, place)}.")
    return known[label]


def scores_of(better: int | None, number: int = 2) -> list[float]:
    """Returns the scores of responses of which one is better: 1 and 0; all 0.5 if none is."""
    return [0.5 if better is None else float(n == better) for n in range(number)]


def texts(values: Any, name: str, place: Place) -> list[str]:
    """Returns a list of strings, also from JSON text."""
    if isinstance(values, str):
        try:
            values = strict_json(values)
        except json.JSONDecodeError as error:
            raise place.error(f"`{name}` must be a list of strings, got {describe(values)}.") from error
    if not isinstance(values, list) or not values:
        raise place.error(f"`{name}` must be a list of strings, got {describe(values)}.")
    return [text_value(text, f"{name}[{n}]", place) for n, text in enumerate(values)]


def optional_text(value: Any, name: str, place: Place) -> str | None:
    """Returns a non-empty string; `None` for null and for white space."""
    if value is None:
        return None
    text = text_value(value, name, place)
    return text if text.strip() else None


def chosen_label(given: str | None, known: Sequence[str], place: Place, what: str = "columns") -> str:
    """
    Returns the label to read, out of several.

    Args:
        given (`str`, *optional*): The option `label`.
        known (`Sequence[str]`): Labels that the row has.
        place (`Place`): Its place.
        what (`str`): What they are called in the error.

    Raises:
        `InputError`: if there is no such label, or several and none was given.
    """
    if given is None and len(known) == 1:
        return known[0]
    remedy = "Pass --label NAME (in a recipe, label: NAME)."
    if given is None:
        raise place.error(f"several {what} say which response is better: {name_list(known)}.", remedy)
    if given not in known:
        raise place.error(f"`label` is '{given}', but this row has {name_list(known) or 'none'}.", remedy)
    return given
