"""Types of the commands' options, and a parser that reports a mistake in one line."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ..errors import InputError, did_you_mean, one_line
from ..output.nested_ranges import Optional
from ..output.ranges import MANY, Number, Range, Text
from ..output.stated_ranges import say_range
from .help_texts import HelpFormatter, name_values, usage


TEXT = Text(empty=False)
SEED = Number(0, 2**32 - 1, whole=True)
COUNT = Number(1, MANY, whole=True)
PROCESSES = Number(1, 1024, whole=True)
SHARE = Number(0, 1)
BELOW_ONE = Number(0, 1, below=True)
COMPUTING = frozenset(
    {"--device", "--dtype", "--tokens-per-batch", "--window", "--endpoint", "--num-proc", "--cache-dir"}
    | {"--chat-date", "--trust-remote-code"}
)
RESAMPLES = Number(1, 10_000_000, whole=True)


@dataclass(frozen=True)
class Place(Text):
    """The path of a file or a folder."""

    empty: bool = False

    @property
    def text(self) -> str:
        """In words."""
        return "a path in UTF-8, not empty"

    def __call__(self, text: str) -> Path:
        """Returns the path."""
        return Path(super().__call__(text))


@dataclass(frozen=True)
class Device(Text):
    """A torch device."""

    @property
    def text(self) -> str:
        """In words."""
        return "cpu, cuda, or cuda:N with N the number of a GPU (also mps, xpu, npu, hpu and mlu)"

    def holds(self, value: Any) -> bool:
        """Whether it names a device. Whether this machine has it is checked when torch is loaded."""
        return isinstance(value, str) and re.fullmatch(r"(cpu|cuda|mps|xpu|npu|hpu|mlu)(:\d{1,3})?", value) is not None


@dataclass(frozen=True)
class OrNone(Optional):
    """A number, or the word 'none' for no value."""

    @property
    def text(self) -> str:
        """In words."""
        return f"{super().text}, or 'none'"

    def read(self, text: str) -> Any:
        """The number, or None."""
        return None if text.lower() == "none" else self.of.read(text)


PLACE, DEVICE = Place(), Device()


class Parser(argparse.ArgumentParser):
    """
    A parser whose help fits a screen and shows the ranges of its options, and that reports a mistake in one line.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        self.computing: argparse._ArgumentGroup | None = None
        super().__init__(*args, **{"formatter_class": HelpFormatter, **options})

    def add_argument(self, *names: Any, **options: Any) -> argparse.Action:
        """As argparse does it; what says where and how to compute, alike in all commands, gets a part of the help."""
        if names[0] not in COMPUTING:
            return super().add_argument(*names, **options)
        if self.computing is None:
            self.computing = self.add_argument_group("computing")
        return self.computing.add_argument(*names, **options)

    def finish(self) -> None:
        """
        Completes the help once all arguments are added: ranges, names of values, the usage line. An argument without
        type and choices is a text that is not empty.
        """
        for action in self._actions:
            if action.type is None and action.choices is None and action.nargs != 0:
                action.type = TEXT
            say_range(action, action.type if isinstance(action.type, Range) else None)
        name_values(self._actions)
        self.usage = usage(self.prog, self._actions)

    def refuse_unknown(self, words: Sequence[str]) -> None:
        """Refuses a misspelled option before a missing one is reported."""
        for word in words:
            if word == "--":
                return
            name = word.partition("=")[0]
            if name.startswith("--") and not any(known.startswith(name) for known in self._option_string_actions):
                self.error(f"unrecognized arguments: {name}")

    def error(self, message: str) -> NoReturn:
        """Replaces argparse's method, which prints all options first."""
        unknown = re.match(r"unrecognized arguments: (--?[^\s=]+)", message)
        hint = did_you_mean(unknown[1], self._option_string_actions) if unknown else ""
        raise InputError(f"{one_line(message, 1000).rstrip('.')}.{hint} See `{self.prog} --help`.")
