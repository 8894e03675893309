"""How the help of a command looks: a usage line of what is required, one column of options, a width that can be read."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Iterable

from ..output.nested_ranges import Optional
from ..output.ranges import Number


NARROWEST, WIDEST = 60, 110  # columns
BESIDE = 30  # columns for an option's name, before its help begins in the next line


class HelpFormatter(argparse.HelpFormatter):
    """
    As wide as the terminal within limits, 100 columns where there is none. A repeated value is `NAME …`; a paragraph with
    indented lines, such as an example or a list, is left as it is.
    """

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=BESIDE, width=width())

    # argparse has no public way to change these three; they are the same in Python 3.10 to 3.14.
    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        return repeated_value(action) if action.nargs == "+" else super()._format_args(action, default_metavar)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.split("\n\n")
        return "\n\n".join(
            part if "\n  " in part else textwrap.fill(part, width, break_on_hyphens=False) for part in paragraphs
        )


def width() -> int:
    """Returns the columns of a help text."""
    return max(NARROWEST, min(shutil.get_terminal_size((100, 24)).columns, WIDEST))


def repeated_value(action: argparse.Action) -> str:
    """Returns how the help names the values of an option that takes one or more."""
    choices = f"{{{','.join(map(str, action.choices))}}}" if action.choices else action.dest.upper()
    return f"{action.metavar or choices} …"


def name_values(actions: Iterable[argparse.Action]) -> None:
    """Lets an option that takes a number and names it nowhere say `N`, or `X` where it need not be whole."""
    for action in actions:
        rule = action.type.of if isinstance(action.type, Optional) else action.type
        if isinstance(rule, Number) and action.metavar is None and action.option_strings:
            action.metavar = "N" if rule.whole else "X"


def usage(prog: str, actions: Iterable[argparse.Action]) -> str:
    """
    Returns the usage line: what must be given, and that there are options.

    Args:
        prog (`str`): How the command is called.
        actions (`Iterable[argparse.Action]`): Its arguments.
    """
    words = [prog]
    for action in actions:
        if not action.option_strings:
            words.append(action.metavar or action.dest.upper())
        elif action.required:
            value = repeated_value(action) if action.nargs == "+" else action.metavar or action.dest.upper()
            words.append(f"{action.option_strings[-1]} {value}")
    text = " ".join([*words, "[options]"])
    return textwrap.fill(text, width() - len("usage: "), subsequent_indent=" " * 11, break_on_hyphens=False)
