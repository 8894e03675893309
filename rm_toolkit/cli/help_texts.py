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
        columns = shutil.get_terminal_size((100, 24)).columns
        super().__init__(prog, max_help_position=BESIDE, width=max(NARROWEST, min(columns, WIDEST)))

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        if action.nargs == "+":
            return f"{self._metavar_formatter(action, default_metavar)(1)[0]} …"
        return super()._format_args(action, default_metavar)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.split("\n\n")
        return "\n\n".join(
            part if "\n  " in part else textwrap.fill(part, width, break_on_hyphens=False) for part in paragraphs
        )


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
    formatter = HelpFormatter(prog)
    words = [prog]
    for action in actions:
        if not action.option_strings:
            words.append(action.metavar or action.dest.upper())
        elif action.required:
            words.append(f"{action.option_strings[-1]} {formatter._format_args(action, action.dest.upper())}")
    text, width = " ".join([*words, "[options]"]), formatter._width - len("usage: ")
    return textwrap.fill(text, width, subsequent_indent=" " * 11, break_on_hyphens=False)
