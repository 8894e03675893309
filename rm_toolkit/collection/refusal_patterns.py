"""A user's regular expressions, searched with a time limit."""

from __future__ import annotations

import os

import regex

from ..errors import InputError, one_line
from ..output.strict_yaml import read_text


SECONDS = 1.0  # for one search in the beginning of an answer, which normally takes microseconds
# On these, patterns with nested repetitions show that they never end.
_PROBES = tuple(word * (200 // len(word)) + "\0" for word in ("a", "0", " ", "I can't ", "\n"))


class TimedPattern:
    """
    A pattern from a user; case is ignored, and a dot matches any character.

    Args:
        text (`str`): The regular expression.

    Raises:
        `InputError`: if it is not a regular expression.
    """

    def __init__(self, text: str):
        self.text = text
        try:
            self._compiled = regex.compile(text, regex.IGNORECASE | regex.DOTALL)
        except (regex.error, RecursionError, OverflowError, ValueError) as error:
            raise InputError(
                f"'{one_line(text, 200)}' is not a regular expression ({one_line(str(error), 200)})."
            ) from error

    def search(self, text: str) -> bool:
        """
        Whether the pattern is found in a text.

        Raises:
            `InputError`: if the search takes longer than `SECONDS`.
        """
        try:
            return self._compiled.search(text, timeout=SECONDS) is not None
        except TimeoutError as error:
            raise InputError(
                f"the refusal pattern '{one_line(self.text, 200)}' takes more than {SECONDS:g} second on "
                f"'{one_line(text, 60)}': it tries too many ways. Write it without a repetition inside "
                "a repetition, such as (a+)+."
            ) from error


def load_patterns(path: str | os.PathLike) -> tuple[str, ...]:
    """
    Reads regular expressions, one per line; skips empty lines and lines that begin with #.

    Raises:
        `InputError`: naming the line that is not a regular expression, or takes too long.
    """
    lines = read_text(
        path, "the refusal patterns", "Give a text file with one regular expression per line."
    ).splitlines()
    patterns = []
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            pattern = TimedPattern(line)
            for probe in _PROBES:
                pattern.search(probe)
        except InputError as error:
            raise InputError(f"{path}, line {number}: {error}") from error
        patterns.append(line)
    return tuple(patterns)
