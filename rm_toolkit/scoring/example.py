"""One text with its reward, stored with a model: used to check that a program reads the model as it was trained."""

from __future__ import annotations

import ast
import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..models.files import CARD_NAME, SETTINGS_NAME
from ..models.hub_files import find_file, split_revision
from ..output.json_files import load_json


QUESTION, ANSWER = "Name a colour.", "Blue."
# Its form on a card; older models have the example only on their card, not in their settings.
ON_CARD = re.compile(r"^rewards = scorer\.score\((\[.*\], \[.*\])\)  # \[(-?\d+\.\d+)\]$", re.M)


@dataclass
class ScoredExample:
    """
    A text as the toolkit's scorer accepts it, with its reward.

    Args:
        prompt, completion (`str` or `list[dict]`): The text.
        reward (`float`): Its reward in logits, computed in fp32 on a CPU.
    """

    prompt: Any
    completion: Any
    reward: float


def example_text(data_format: str) -> tuple[Any, Any]:
    """
    Returns prompt and completion of the example, which are from no dataset.

    Args:
        data_format (`str`): `"text"` or `"chat"`.
    """
    if data_format == "chat":
        return [{"role": "user", "content": QUESTION}], [{"role": "assistant", "content": ANSWER}]
    return f"## Human:\n{QUESTION}\n\n## Assistant:\n", ANSWER


def write_example(folder: str | os.PathLike, example: ScoredExample) -> None:
    """
    Stores an example in `rm_toolkit.json` of a saved model. Saving the model again removes it.

    Raises:
        `InputError`: if the folder has no such file.
    """
    path = Path(folder, SETTINGS_NAME)
    if not path.is_file():
        raise InputError(
            f"'{folder}' is not a folder with `{SETTINGS_NAME}`, so no example can be stored in it. Only models "
            f"saved by this "
            "toolkit have one."
        )
    values = load_json(path)
    values["example"] = asdict(example)
    temporary = path.with_name(f".saving-{SETTINGS_NAME}")
    temporary.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def read_example(model: str | os.PathLike, revision: str | None = None) -> ScoredExample | None:
    """
    Reads the example of a model from its settings, or else from its card. `None` if neither has one.

    Args:
        model (`str` or `os.PathLike`): Folder or Hub id, also `ID@REVISION`.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.

    Raises:
        `InputError`: if it is damaged.
    """
    place = split_revision(model, revision)
    path = find_file(place[0], SETTINGS_NAME, place[1])
    try:
        found = load_json(Path(path)).get("example") if path is not None else None
        if found is not None:
            return ScoredExample(found["prompt"], found["completion"], float(found["reward"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"the `example` in {path} cannot be read ({error!r}). Restore the file.") from error
    card = find_file(place[0], CARD_NAME, place[1])
    shown = ON_CARD.search(Path(card).read_text(encoding="utf-8", errors="replace")) if card is not None else None
    if shown is None:
        return None
    try:
        (prompt,), (completion,) = ast.literal_eval(shown[1])
    except (ValueError, SyntaxError, TypeError):  # written by a person
        return None
    return ScoredExample(prompt, completion, float(shown[2]))
