"""
Short English answers composed from word banks: many weak cues a text, lengths under control. Standard library only.

A *frame* is a sentence with choices in round brackets and slots in braces, such as `One (useful|practical) tip: {step}.`; a *bank* maps
each slot to the phrases that may fill it. Nothing is drawn from a slot twice within one answer while the bank lasts.
"""

import json
import random
import re
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path


BANKS_DIR = Path(__file__).parent / "banks"

GRAMMAR = (
    ".",
    ",",
    "a",
    "an",
    "and",
    "as",
    "at",
    "for",
    "i",
    "in",
    "is",
    "it",
    "of",
    "on",
    "some",
    "that",
    "the",
    "to",
    "with",
    "you",
)

_CHOICE = re.compile(r"\(([^()|]*(?:\|[^()|]*)+)\)")
_SLOT = re.compile(r"\{(\w+)\}")
_ARTICLE = re.compile(r"\b([Aa]) (?=(\w+))")
_SENTENCE_START = re.compile(r"(^|[.!?] )([a-z])")
# Letters mislead for these: the article follows the sound.
_CONSONANT_SOUND = ("use", "uni", "one", "eu")
_SILENT_H = ("hour", "honest", "heir")
_YOUR = {"I am": "you are", "I": "you", "me": "you", "my": "your", "we": "we"}


@cache
def load_bank(name: str) -> dict:
    """The word bank `banks/<name>.json`, read once: not to be changed."""
    return json.loads((BANKS_DIR / f"{name}.json").read_text(encoding="utf-8"))


def to_second_person(phrase: str) -> str:
    """`hide my keys` as the asked one says it: `hide your keys`."""
    return re.sub(r"\b(I am|I|me|my)\b", lambda found: _YOUR[found.group()], phrase)


def _article(found: re.Match) -> str:
    article, word = found.group(1), found.group(2).lower()
    vowel = (word[0] in "aeiou" and not word.startswith(_CONSONANT_SOUND)) or word.startswith(_SILENT_H)
    return f"{article}n " if vowel else f"{article} "


def tidy(text: str) -> str:
    """Sentences begin with a capital letter; `a` becomes `an` where the next word asks for it."""
    text = _SENTENCE_START.sub(lambda found: found.group(1) + found.group(2).upper(), text)
    return _ARTICLE.sub(_article, text)


class Writer:
    """
    Fills frames from banks for one answer.

    Args:
        rng (`random.Random`): Source of every choice.
        bank (`dict[str, list[str]]`): Phrases by slot name.
    """

    def __init__(self, rng: random.Random, bank: dict[str, list[str]]):
        self.rng = rng
        self.bank = bank
        self.unused: dict[str, list[str]] = {}
        self.marks = 0

    def draw(self, slot: str) -> str:
        if slot == "mark":
            self.marks += 1
            return f"[{self.marks}]"
        if not self.unused.get(slot):
            self.unused[slot] = self.rng.sample(self.bank[slot], len(self.bank[slot]))
        return self.unused[slot].pop()

    def fill(self, frame: str) -> str:
        frame = _CHOICE.sub(lambda found: self.rng.choice(found.group(1).split("|")), frame)
        return _SLOT.sub(lambda found: self.draw(found.group(1)), frame)


def compose(rng: random.Random, bank: dict[str, list[str]], plan: list[str]) -> str:
    """One answer: a frame for each name in `plan` (a slot of `bank` whose phrases are frames), filled and joined."""
    writer = Writer(rng, bank)
    return tidy(" ".join(writer.fill(writer.draw(name)) for name in plan))


def size(text: str) -> float:
    """Length in words: a mean of counted words and of characters at six a word, so that neither gives a quality away."""
    return 0.42 * len(text.split()) + 0.58 * len(text) / 6


def grammar_distance(text: str, other: str) -> float:
    """How unlike two texts use the words of `GRAMMAR`, in words, the counts of `other` scaled to the length of `text`."""
    counts, others = (Counter(re.findall(r"[a-z]+|[.,]", each.lower())) for each in (text, other))
    scale = size(text) / size(other)
    return sum(abs(counts[word] - scale * others[word]) for word in GRAMMAR)


def compose_near(
    rng: random.Random,
    bank: dict[str, list[str]],
    plans: list[list[str]],
    target: float,
    accept: Callable[[str], bool],
    like: str | None = None,
    tries: int = 10,
) -> str:
    """
    The best of `tries` answers, each after a plan drawn from `plans`: of a `size` near `target` words, its grammar near that of `like`.

    Without the second, `to` or a full stop would tell better from worse in a small set by chance. Answers that `accept` says no to do
    not count among the tries.
    """

    def badness(answer: str) -> float:
        return abs(size(answer) - target) + (0.5 * grammar_distance(answer, like) if like else 0.0)

    answers: list[str] = []
    while len(answers) < tries:
        answer = compose(rng, bank, rng.choice(plans))
        if accept(answer):
            answers.append(answer)
    return min(answers, key=badness)


def ranked_targets(rng: random.Random, number: int, low: float = 20.0, high: float = 48.0) -> list[float]:
    """`number` lengths in words, shortest first. Handing them out in turn keeps length from telling better from worse."""
    return sorted(rng.uniform(low, high) for _ in range(number))
