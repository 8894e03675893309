"""
Label Studio's JSON export: `data` with the texts, `annotations` with what people chose.

Of each annotation's `result`: `pairwise` (`selected` left or right, labelstud.io/tags/pairwise), `choices` that name a text, left,
right or a tie, a `rating` of each text, or a `ranker` (labelstud.io/tags/ranker) that sorts the items of a list, the
best first. Left and right are the two of `to_name`, if the data has them, else the two texts that are not the prompt.
Cancelled annotations are left out and counted; scores are means over people.
"""

from __future__ import annotations

from typing import Any

from ..places import Place
from ..schema import RawRow, describe, field, known_keys, number_value, text_or_messages
from .base import Record, Source, SourceOptions
from .values import chosen_label
from .votes import for_one, mean_scores


ASKED = ("prompt", "instruction", "question", "query", "input", "context")
TIES = ("tie", "equal", "both", "same", "neither")
CANCELLED = "cancelled annotations left out"
KINDS = ("pairwise", "choices", "rating", "ranker")
ITEM_TEXTS = ("body", "text", "html", "title")  # keys of a list item; the first one present is ranked
NO_BUCKET = "_"  # the items of a list that are in no bucket


def row(record: Record, place: Place, options: SourceOptions) -> RawRow:
    """Returns the row of the compared texts."""
    data, annotations = field(record, "data", place), field(record, "annotations", place)
    if not isinstance(data, dict) or not isinstance(annotations, list):
        raise place.error(f"`data` must be an object and `annotations` a list, got {describe(data)}.")
    done = [entry for entry in annotations if isinstance(entry, dict) and not entry.get("was_cancelled")]
    results = [[r for r in entry.get("result") or [] if r.get("type") in KINDS] for entry in done]
    labels = list(dict.fromkeys(result.get("from_name") for entry in results for result in entry))
    ratings = {result.get("type") for entry in results for result in entry} == {"rating"}
    if not labels:
        raise place.error(
            "no annotation compares two texts (a result of the type pairwise, choices, rating or ranker)."
        )
    label = None if ratings and options.label is None else chosen_label(options.label, labels, place, "controls")
    results = [[r for r in entry if label in (None, r.get("from_name"))] for entry in results]
    prompt = next((name for name in ASKED if data.get(name) is not None), None)
    if prompt is None:
        raise place.error(
            f"no prompt was found in `data`, such as {', '.join(ASKED[:3])}; its keys are {known_keys(data)}."
        )
    if any(result["type"] == "ranker" for entry in results for result in entry):
        orders = [_order(result, place) for entry in results for result in entry if result["type"] == "ranker"]
        texts = _items(data, {name for order in orders for name in order}, place)
        names = [name for name in texts if any(name in order for order in orders)]
        judged: list[dict[str, float]] = [{name: -float(n) for n, name in enumerate(order, 1)} for order in orders]
    else:
        texts = data
        others = [name for name, text in data.items() if name != prompt and isinstance(text, str | list)]
        names = _compared([r for entry in results for r in entry], data, others, place)
        judged = [scores for entry in results if (scores := _scores(entry, names, place))]
    if any(all(name not in scores for scores in judged) for name in names):
        raise place.error("not every text was judged.")
    return RawRow(
        prompt=text_or_messages(data[prompt], prompt, place),
        completions=[text_or_messages(texts[name], name, place) for name in names],
        scores=mean_scores(judged, names),
        notes=(CANCELLED,) * (len(annotations) - len(done)),
    )


def _compared(results: list[dict[str, Any]], data: dict[str, Any], others: list[str], place: Place) -> list[str]:
    """The names of the compared texts, left before right."""
    for result in results:
        named = [name.strip() for name in str(result.get("to_name") or "").split(",")]
        if len(named) > 1 and all(name in data for name in named):
            return named
    rated = [result.get("to_name") for result in results if result.get("type") == "rating"]
    if rated:
        return [name for name in data if name in rated]
    if len(others) != 2:
        raise place.error(f"which two texts were compared is not clear: `data` has {known_keys(data)}.")
    return others


def _order(result: dict[str, Any], place: Place) -> list[str]:
    """The items of one ranker, best first."""
    buckets = (result.get("value") or {}).get("ranker")
    if not isinstance(buckets, dict) or not all(isinstance(items, list) for items in buckets.values()):
        raise place.error(f"the ranker's `value` must have `ranker`, lists of items; got {describe(buckets)}.")
    filled = [name for name, items in buckets.items() if items] or [NO_BUCKET]
    if len(filled) > 1 or (filled[0] == NO_BUCKET and len(buckets) > 1):
        raise place.error(
            f"the ranker sorts items into buckets ({known_keys(buckets)}), whose order is not in the file.",
            "Write each row as `prompt`, `responses` and `ranks` (1 is best) instead.",
        )
    order = [str(item) for item in buckets.get(filled[0], [])]
    if len(order) < 2 or len(set(order)) < len(order):
        raise place.error(f"the ranker must sort two items or more, each once; got {describe(order)}.")
    return order


def _items(data: dict[str, Any], ranked: set[str], place: Place) -> dict[str, Any]:
    """The texts of the list with the ranked items, by their ids."""
    for items in data.values():
        if isinstance(items, list) and all(isinstance(item, dict) and "id" in item for item in items):
            texts = {str(item["id"]): next((item[key] for key in ITEM_TEXTS if item.get(key)), None) for item in items}
            if ranked <= texts.keys():
                return texts
    raise place.error(
        f"no list in `data` has all of the ranked items ({', '.join(sorted(ranked))}) by their `id`; its keys are "
        f"{known_keys(data)}."
    )


def _scores(results: list[dict[str, Any]], names: list[str], place: Place) -> dict[str, float]:
    """The scores of one annotation; empty if nothing was chosen."""
    scores: dict[str, float] = {}
    for result in results:
        value = result.get("value") or {}
        if result["type"] == "rating":
            scores[result.get("to_name")] = number_value(field(value, "rating", place), "rating", place)
            continue
        chosen = value.get("selected") if result["type"] == "pairwise" else (value.get("choices") or [None])[0]
        if chosen is not None:
            scores = for_one(names, _name_of(chosen, names, place))
    return scores


def _name_of(chosen: Any, names: list[str], place: Place) -> str | None:
    if chosen in names:
        return chosen
    word = str(chosen).strip().lower()
    if word in TIES:
        return None
    if word in ("left", "right"):
        return names[0 if word == "left" else 1]
    raise place.error(f"the choice '{chosen}' must be left, right, tie or the name of a text ({', '.join(names)}).")


SOURCE = Source(
    "label-studio",
    "Label Studio's JSON export: a pairwise choice, ratings, or an order",
    row,
    "human-assistant",
    accepts=("label",),
)
