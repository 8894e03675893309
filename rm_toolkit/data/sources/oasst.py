"""
OpenAssistant: trees of messages with replies ranked by people.

- One tree per record: `message_tree_id`, `prompt` with `replies` within `replies`: the files `*.trees.jsonl.gz`.
- One message per record: `message_id`, `parent_id`, `text`, `role` (`prompter`, `assistant`), `rank`: the rows of the
  dataset.

Both: huggingface.co/datasets/OpenAssistant/oasst1 and oasst2. Rank 0 is best. Every message with two or more ranked
replies of the assistant gives one row, whose prompt is the path from the root to it. Deleted messages and replies
without a rank are left out and counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...errors import InputError
from ..places import Place
from ..schema import RawRow, describe, field, number_value, text_value
from .base import Record, Records, Source, SourceOptions


ROLES = {"prompter": "user", "assistant": "assistant"}
NO_RANK = "replies without a rank left out"
DELETED = "deleted messages left out"


class Compared(dict):
    """The ranked replies to one message: keys are those of `RawRow`."""


def row(record: Record, place: Place, options: SourceOptions) -> RawRow:
    """Returns the row of the replies to one message."""
    return RawRow(**record)


def join(records: Records, options: SourceOptions) -> Records:
    """
    Yields the ranked replies to each message: tree by tree, or, for single messages, after all are read.

    Raises:
        `InputError`: if no message has two ranked replies.
    """
    messages: dict[str, tuple[Place, Record]] = {}
    read = Counted()
    for place, record in records:
        try:
            if isinstance(record, InputError):
                raise record
            if "prompt" in record and "replies" not in record and "message_id" not in record:
                yield from read.passed(_of_tree(place, field(record, "prompt", place), read))
            else:
                identity = text_value(field(record, "message_id", place), "message_id", place)
                if identity in messages:
                    raise place.error(f"the message '{identity}' is given twice.")
                messages[identity] = (place, record)
        except InputError as error:
            yield place, error
    for place, found in read.passed(_of_messages(messages, read)):
        yield place, found
    yield from read.rest()


class Counted:
    """Delays rows by one, so that counts after the last row can still be reported with it."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.held: tuple[Place, Compared] | None = None
        self.last: Place | None = None

    def passed(self, rows: Iterator[tuple[Place, Any]]) -> Iterator[tuple[Place, Any]]:
        """Yields each row one step later, and errors at once."""
        for place, found in rows:
            self.last = place
            if isinstance(found, InputError):
                yield place, found
                continue
            if self.held is not None:
                yield self.held
            self.held = (place, found)

    def rest(self) -> Iterator[tuple[Place, Any]]:
        """Yields the last row with all counts."""
        if self.held is None:
            return
        place, found = self.held
        found["notes"] = tuple(self.notes)
        yield place, found


def _of_tree(place: Place, root: Any, read: Counted) -> Iterator[tuple[Place, Any]]:
    waiting: list[tuple[list[dict[str, str]], Any]] = [([], root)]
    while waiting:
        way, node = waiting.pop(0)
        try:
            if not isinstance(node, dict):
                raise place.error(f"a message must be an object with 'text' and 'role', got {describe(node)}.")
            if node.get("deleted") is True:
                read.notes.append(DELETED)
                continue
            way = [*way, _message(node, place)]
            replies = node.get("replies") or []
            found = _compared(way, [reply for reply in replies if isinstance(reply, dict)], place, read)
        except InputError as error:
            yield place, error
            return
        if found is not None:
            yield place, found
        waiting += [(way, reply) for reply in replies]


def _of_messages(messages: dict[str, tuple[Place, Record]], read: Counted) -> Iterator[tuple[Place, Any]]:
    """The rows of single messages, in the order of the answered messages."""
    replies: dict[str, list[Record]] = {}
    for place, record in messages.values():
        parent = record.get("parent_id")
        if record.get("deleted") is True:
            read.notes.append(DELETED)
        elif parent is not None and parent not in messages:
            yield place, place.error(f"its `parent_id` '{parent}' is not a message of the file.")
        elif parent is not None:
            replies.setdefault(parent, []).append(record)
    for identity, answers in replies.items():
        place, record = messages[identity]
        try:
            way = [_message(record, place)]
            seen = {identity}
            while record.get("parent_id") is not None and record["parent_id"] in messages:
                if record["parent_id"] in seen:
                    raise place.error("the message is its own ancestor.")
                seen.add(record["parent_id"])
                above, record = messages[record["parent_id"]]
                way.insert(0, _message(record, above))
            found = _compared(way, answers, place, read)
        except InputError as error:
            yield place, error
            continue
        if found is not None:
            yield place, found


def _compared(way: list[dict[str, str]], replies: list[Any], place: Place, read: Counted) -> Compared | None:
    """The ranked replies of the assistant to the last message of a path; `None` if there are fewer than two."""
    replies = [reply for reply in replies if reply.get("role") == "assistant" and reply.get("deleted") is not True]
    ranked = [reply for reply in replies if reply.get("rank") is not None]
    if way[-1]["role"] != "user" or len(replies) < 2:
        return None
    read.notes += [NO_RANK] * (len(replies) - len(ranked))
    if len(ranked) < 2:
        return None
    ranks = [number_value(reply["rank"], "rank", place) for reply in ranked]
    if min(ranks) < 0:
        raise place.error(
            f"`rank` is {min(ranks):g}, but 0 is the best; other numbers mean that there is no judgment."
        )
    texts = [_message(reply, place)["content"] for reply in ranked]
    prompt = way[0]["content"] if len(way) == 1 else way
    return Compared(prompt=prompt, completions=texts, scores=[0.0 - rank for rank in ranks])


def _message(node: Any, place: Place) -> dict[str, str]:
    role = field(node, "role", place)
    if role not in ROLES:
        raise place.error(f"`role` must be 'prompter' or 'assistant', got {describe(role)}.")
    return {"role": ROLES[role], "content": text_value(field(node, "text", place), "text", place)}


SOURCE = Source(
    "oasst",
    "OpenAssistant: trees of messages, or single messages with parent and rank",
    row,
    "human-assistant",
    join=join,
    license="apache-2.0",
)
