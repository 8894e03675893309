"""Guesses from its name what a column is: which response is better, a rank, a part of the prompt, or none of these."""

from __future__ import annotations

import functools
import re
from typing import Any


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


RANKS = _words("rank ranks ranking rankings position positions placement")
_SCORES = _words("score scores rating ratings reward rewards points votes upvotes likes grade")
_BETTER = _words("winner winners better safer preferred")
_JUDGED = _words("preference preferences rank ranks ranking rankings selected choice verdict comparison")
_PLACES = _words("a b c d 0 1 2 3 4 j k left right")
_INDEX = _words("id idx index position number side label")
_RESPONSES = _words("response answer completion output candidate option")
# Next to these words, `label` is the label of a preference; next to others it may be any tag.
_OF_A_LABEL = _words("human ai gpt gold final true gt target binary majority pref")
# Last word in the name of a column that is about a judgment but is not one.
_ABOUT = _words(
    "model source dataset url date time type category version prompt statement elaboration reason reasons "
    "reasoning rationale explanation comment comments feedback text annotator annotators user judge agreement "
    "criteria count"
)
# Treated as part of the prompt anywhere, and as the whole prompt if there is no other.
PROMPT_PARTS = _words(
    "prompt instruction instructions question query input inputs input_text system system_prompt system_message "
    "system_text system_instruction history chat_history conversation_history dialogue_history dialog_history "
    "context contexts passage passages document documents image images video videos audio audios"
)
WHOLE_PROMPTS = _words(
    "messages conversation conversations dialogue dialog user_input user_prompt user_message post problem trajectory"
)
LONGEST_LABEL = 100  # characters; longer texts describe a preference


def is_rank(name: str) -> bool:
    """Whether the name of a column means ranks, where 1 is best."""
    words = set(words_of(name))
    return bool(words & RANKS) and not words & _SCORES


@functools.lru_cache(maxsize=4096)  # the names are the same in every row
def words_of(name: str) -> tuple[str, ...]:
    """Returns the words of a column's name in lower case; for a dotted name, those of the last part."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.rpartition(".")[2])
    return tuple(re.findall(r"[^\W\d_]+|\d+", apart.lower()))


@functools.lru_cache(maxsize=4096)
def may_matter(name: str) -> bool:
    """Whether a name can mean a label or a part of the prompt; avoids checking other columns in every row."""
    words = words_of(name)
    return "_".join(words) in PROMPT_PARTS | WHOLE_PROMPTS or any(says_which(words, value, False) for value in ("", 0))


def says_which(words: tuple[str, ...], value: Any, own_names: bool) -> bool:
    """
    Whether a column seems to say which response is better.

    Args:
        words (`tuple[str, ...]`): Words of its name.
        value: Its value; long texts do not count, and a score must be a number.
        own_names (`bool`): Whether the better response was found in a column named `chosen`: then its index and the
            scores add nothing.
    """
    if not words or (isinstance(value, str) and len(value) > LONGEST_LABEL):
        return False
    named, last = set(words), words[-1]
    if last in _ABOUT:
        return last == "model" and bool(named & _BETTER)
    if named & _BETTER or "selected" in named or "choice" in named:
        return True
    if named & _JUDGED:
        return last not in ("id", "ids")
    if "best" in named:
        return last in _RESPONSES | _INDEX | {"best"}
    if named & {"label", "labels"}:
        return named <= {"label", "labels"} | _OF_A_LABEL | _PLACES | _INDEX | _RESPONSES
    if own_names:
        return False
    if named & {"chosen", "rejected"}:
        return len(words) == 1 or last in _INDEX or words[0] == "is"
    is_number = isinstance(value, int | float)
    return named == {"annotations"} or (bool(named & _SCORES) and last in _PLACES and is_number)
