"""One row of a scored file: what is read from it, and the line written for it."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import decimal
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from ..batches.given_texts import as_format, is_several
from ..batches.rendering import render_whole
from ..data.messages import TEMPLATE_COLUMNS, content_text, extras
from ..data.number_ranges import WINDOW
from ..data.records import Place
from ..data.schema import field, text_or_messages
from ..data.templates import TEMPLATES, wrap
from ..errors import InputError
from ..output.ranges import Choice, Text
from ..output.stated_ranges import check_ranges
from .calibration_file import Calibration, mean_win_probabilities
from .scorer import RewardScorer


NAME = Text(empty=False)
WIN_COLUMN = "win_probability"
COMPLETION_COLUMNS = ("completion", "completions", "response", "responses")


@dataclass
class ScoreOptions:
    """
    Which columns of each row are read, and how.

    Args:
        prompt_column (`str`, *optional*): Column of the prompt; `None`: the completions are whole texts.
        completion_column (`str`, *optional*): Column of one completion or a list; default: the first of
            `COMPLETION_COLUMNS` that the row has.
        domain_column (`str`, *optional*): Column that names the adapter of each row.
        reward_column (`str`): Column to add.
        template (`str`): `"human-assistant"` wraps plain prompts as `build-data` does; `"none"` leaves them.
        window (`int`): Rows that are sorted and computed together, and written at once.
        skip_invalid (`bool`): Whether rows that cannot be used are left out and counted.
        domain (`str`, *optional*): The adapter of all rows, instead of a column.
    """

    prompt_column: Annotated[str | None, NAME] = "prompt"
    completion_column: Annotated[str | None, NAME] = None
    domain_column: Annotated[str | None, NAME] = None
    reward_column: Annotated[str, NAME] = "reward"
    template: Annotated[str, Choice(TEMPLATES)] = "none"
    window: Annotated[int, WINDOW] = 2048
    skip_invalid: bool = False
    domain: Annotated[str | None, NAME] = None

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass
class Row:
    """A row that can be scored. `skipped` is the number of rows left out before it, `size` its characters of text plus
    bytes of other columns, and `template` what the chat template reads besides its messages."""

    place: Place
    record: Mapping[str, Any]
    prompt: Any
    completions: Any
    domain: str | None
    skipped: int = 0
    size: int = 0
    template: dict[str, Any] = dataclasses.field(default_factory=dict)


def read_row(place: Place, record: Mapping[str, Any], scorer: RewardScorer, options: ScoreOptions) -> Row:
    """
    Reads one record.

    Args:
        place (`Place`): Its place.
        record (`Mapping[str, Any]`): The row.
        scorer (`RewardScorer`): The scorer.
        options (`ScoreOptions`): What is read.

    Raises:
        `InputError`: naming file and row, if it cannot be used.
    """
    if options.reward_column in record:
        raise place.error(
            f"there is a column '{options.reward_column}' already.", "Choose another name with --reward-column NAME."
        )
    if scorer.calibration is not None and WIN_COLUMN in record:
        raise place.error(f"there is a column '{WIN_COLUMN}' already.", "Rename it, or leave out --calibrated.")
    prompt: Any = ""
    if options.prompt_column is not None:
        prompt = text_or_messages(field(record, options.prompt_column, place), options.prompt_column, place)
        if options.template == "human-assistant" and isinstance(prompt, str):
            prompt = wrap(prompt)
    name = options.completion_column or next((key for key in COMPLETION_COLUMNS if key in record), "completion")
    value = field(record, name, place)
    several = is_several(value)
    if scorer.calibration is not None and not (several and len(value) > 1):
        raise place.error(f"`{name}` is not a list of two or more completions, which --calibrated needs.")
    entries = [text_or_messages(entry, name, place) for entry in (value if several else [value])]
    domain = options.domain
    if options.domain_column is not None:
        domain = field(record, options.domain_column, place)
        if domain is not None and not isinstance(domain, str):
            raise place.error(f"`{options.domain_column}` must be the name of an adapter, or null.")
    try:
        if domain is not None:
            scorer.routing.number(domain)
        asked: Any = [] if prompt == "" and entries and isinstance(entries[0], list) else prompt
        data_format = scorer.settings.data_format
        template = {name: record.get(name) for name in TEMPLATE_COLUMNS}
        texts = [as_format(asked, entry, data_format, **template) for entry in entries]
        if data_format == "chat":  # its template may refuse a row; the error must name that row, not the window
            render_whole(texts, scorer.tokenizer, data_format)
    except InputError as error:
        raise place.error(str(error)) from error
    size = sum(_length(part) for text in texts for part in text[:2])
    size += held_bytes([value for column, value in record.items() if column not in (options.prompt_column, name)])
    return Row(place, record, asked, entries if several else entries[0], domain, size=size, template=template)


def _length(text: Any) -> int:
    return len(text) if isinstance(text, str) else sum(len(content_text(m)) + len(extras(m)) for m in text)


def held_bytes(value: Any) -> int:
    """
    Approximate bytes in memory of a value from JSON or Parquet.

    Args:
        value (`Any`): Numbers, strings, lists and dicts, nested to any depth.
    """
    total, waiting = 0, [value]
    while waiting:
        value = waiting.pop()
        total += sys.getsizeof(value)
        if isinstance(value, Mapping):
            waiting += value
            waiting += value.values()
        elif isinstance(value, (list, tuple)):
            waiting += value
    return total


def line(row: Row, reward: Any, column: str, calibration: Calibration | None = None) -> bytes:
    """
    The row with its reward, as one line of JSON.

    Args:
        row (`Row`): The row.
        reward (`float` or `list[float]`): Its reward, or those of its completions.
        column (`str`): Column to add.
        calibration (`Calibration`, *optional*): Adds the column `win_probability`, too: of each completion against the
            others of its row.
    """
    values = reward if isinstance(reward, list) else [reward]
    if not np.isfinite(values).all():
        raise row.place.error(f"the reward is {values}, which is not a number.", "Compute with --dtype float32.")
    short = [float(str(np.float32(value))) for value in values]  # the shortest digits that give the same fp32 number
    record = {**row.record, column: short if isinstance(reward, list) else short[0]}
    if calibration is not None:
        record[WIN_COLUMN] = mean_win_probabilities(short, calibration)

    def other(value: Any) -> Any:  # values of a Parquet column that JSON cannot store
        if isinstance(value, (datetime.date, datetime.time)):
            return value.isoformat()
        if isinstance(value, (decimal.Decimal, datetime.timedelta)):
            return str(value)
        if isinstance(value, bytes):
            return base64.b64encode(value).decode("ascii")
        raise row.place.error(f"a column has {type(value).__name__}, which JSON cannot store.")

    text = json.dumps(record, ensure_ascii=False, default=other)
    try:
        return text.encode("utf-8") + b"\n"
    except UnicodeEncodeError:  # half of a surrogate pair in another column: kept as an escape
        return json.dumps(record, default=other).encode("ascii") + b"\n"
