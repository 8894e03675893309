"""
The date that a chat template writes: fixed once and written into the template, so that it renders the same on every
day and in every program.

Templates ask transformers for it: `strftime_now("%d %b %Y")`. The time of day is always midnight.
"""

from __future__ import annotations

import copy
import datetime
import functools
import re
from collections.abc import Callable
from typing import Any

from jinja2 import TemplateError, meta, nodes
from jinja2.ext import Extension, loopcontrols
from transformers import PreTrainedTokenizerBase

from ..errors import InputError
from .template_limits import BoundedEnvironment


CLOCK = "strftime_now"
DATE_KEY = "chat_date"  # in tokenizer_config.json, stored with the template
# Functions with these names that the template does not define tell the time, if a program has them.
_OTHER_CLOCK = re.compile(r"(^|_)(now|utcnow|today|date|datetime|time|timestamp|strftime|localtime|gmtime|clock)(_|$)")
_SKIPPED = {"whitespace", "comment_begin", "comment", "comment_end"}


def today() -> str:
    """Returns today's date, `YYYY-MM-DD`. Nothing else here reads the clock."""
    return datetime.date.today().isoformat()


def check_date(value: Any, name: str = "chat_date") -> str | None:
    """
    Returns a date as `YYYY-MM-DD`; `None` if none is given.

    Args:
        value (`str` or `datetime.date`, *optional*): YAML reads an unquoted date as one.
        name (`str`): Name of the setting, for the error.

    Raises:
        `InputError`: if it is not a date.
    """
    if isinstance(value, datetime.date):
        value = value.isoformat()
    if value is None or (isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", value) and _is_date(value)):
        return value
    raise InputError(f"`{name}` is '{value}', which is not a date. Write it as YYYY-MM-DD, such as {today()}.")


def _is_date(text: str) -> bool:
    try:
        datetime.date.fromisoformat(text)
    except ValueError:
        return False
    return True


def reads_clock(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template of a tokenizer, or one of several, asks for the current date or time."""
    return any(_asks(template) for template in _templates(tokenizer).values())


def recorded_date(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Returns the date that was written into the chat template of a tokenizer; `None` if none was."""
    return tokenizer.init_kwargs.get(DATE_KEY)


def with_date(tokenizer: PreTrainedTokenizerBase, date: str) -> PreTrainedTokenizerBase:
    """
    Returns a copy of a tokenizer whose chat template has the date instead of the clock; the date is saved with it.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): Its template reads the clock. It is not changed.
        date (`str`): `YYYY-MM-DD`.

    Raises:
        `InputError`: if a template asks for the time other than by `strftime_now` with a literal format.
    """
    fixed = {name: without_clock(template, date) for name, template in _templates(tokenizer).items()}
    tokenizer, given = copy.deepcopy(tokenizer), tokenizer.chat_template
    tokenizer.chat_template = fixed if isinstance(given, dict) else fixed["default"]
    tokenizer.template_with_clock = given
    tokenizer.init_kwargs[DATE_KEY] = date
    return tokenizer


def change_date(tokenizer: PreTrainedTokenizerBase, date: str) -> None:
    """Writes another date into the template of a tokenizer from [`with_date`], in place."""
    tokenizer.chat_template = tokenizer.template_with_clock
    tokenizer.chat_template = with_date(tokenizer, date).chat_template
    tokenizer.init_kwargs[DATE_KEY] = date


class UnusedDateError(InputError):
    """A date is given that the chat template does not use, or that differs from the date of the model's training."""


def choose_date(
    tokenizer: PreTrainedTokenizerBase,
    known: str | None,
    asked: str | None,
    *,
    present: Callable[[], str] = today,
) -> str | None:
    """
    Returns the date to write into a chat template: the model's own, else the given one, else today's; `None` for a
    template that does not ask for a date.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): Has the template.
        known (`str`, *optional*): The date that the model has been trained with.
        asked (`str`, *optional*): `chat_date`, as given by the user.
        present (`Callable`): Returns today's date.

    Raises:
        `UnusedDateError`: if the given date would not be used.
    """
    asked, reads = check_date(asked), reads_clock(tokenizer)
    own = recorded_date(tokenizer) or (known if reads else None)
    if own is None and not reads:
        if asked is not None:
            raise UnusedDateError(
                f"`chat_date` is '{asked}', but the chat template does not ask for the date. Leave it out."
            )
        return None
    if own is not None and asked not in (None, own):
        raise UnusedDateError(
            f"`chat_date` is '{asked}', but the model was trained with the date {own}. Leave it out."
        )
    return own or asked or present()


def _templates(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    template = tokenizer.chat_template
    return template if isinstance(template, dict) else {"default": template} if template else {}


@functools.lru_cache(maxsize=64)
def without_clock(template: str, date: str) -> str:
    """
    Returns a chat template with the date instead of the clock; one that does not ask for the time is returned
    unchanged.

    `strftime_now("%d %b %Y")` becomes `'27 Nov 2026'`, and `strftime_now is defined` becomes `true`.

    Args:
        template (`str`): Jinja.
        date (`str`): `YYYY-MM-DD`.

    Raises:
        `InputError`: naming any other call that tells the time.
    """
    if not _asks(template):
        return template
    template = re.sub(r"\r\n?", "\n", template)  # as in Jinja
    moment = datetime.datetime.fromisoformat(date)
    parts, end = [], 0
    for begin, stop, text in _replacements(template, moment):
        parts += [template[end:begin], text]
        end = stop
    fixed = "".join([*parts, template[end:]])
    left = _clock_calls(fixed)
    if left:
        raise InputError(
            f"the chat template asks for the time with {left[0]}; the date can be fixed only if the format is written in "
            f'the call, as in {CLOCK}("%d %b %Y"). Write the date, or such a call, into the template, and give that '
            "tokenizer."
        )
    return fixed


class _Generation(Extension):
    """`{% generation %}`, which transformers adds to Jinja."""

    tags = {"generation"}

    def parse(self, parser: Any) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


_JINJA = BoundedEnvironment(extensions=[_Generation, loopcontrols])  # only parses: nothing is rendered


@functools.lru_cache(maxsize=64)
def _asks(template: str) -> bool:
    return bool(_clock_calls(template))


def _clock_calls(template: str) -> list[str]:
    """The calls in a template that tell the time, each with its line; empty for a template that Jinja cannot parse."""
    _JINJA.begin({})
    try:
        tree = _JINJA.parse(template)
        given = meta.find_undeclared_variables(tree)
    except TemplateError:  # rendering will report it
        return []
    found = [
        f"`{CLOCK}` in line {name.lineno}"
        for name in tree.find_all(nodes.Name)
        if name.name == CLOCK and CLOCK in given and name.ctx == "load"
    ]
    for call in tree.find_all(nodes.Call):
        root, path = call.node, []
        while isinstance(root, nodes.Getattr):
            path.insert(0, root.attr)
            root = root.node
        if isinstance(root, nodes.Name) and root.name in given - {CLOCK} and _OTHER_CLOCK.search(root.name):
            found.append(f"`{'.'.join([root.name, *path])}()` in line {call.lineno}")
    return found


def _replacements(template: str, moment: datetime.datetime) -> list[tuple[int, int, str]]:
    """Where the clock is called with a literal format, or tested for, and the replacements."""
    tokens = _tokens(template)
    found = []
    for number, (kind, value, begin, _) in enumerate(tokens):
        if (kind, value) != ("name", CLOCK) or (number and tokens[number - 1][1] == "."):
            continue
        after = tokens[number + 1 : number + 4]
        words = [token[1] for token in after]
        if words[:1] == ["is"]:
            negated = words[1:2] == ["not"]
            tested = words[1 + negated : 2 + negated]
            if tested in (["defined"], ["undefined"]):
                text = "true" if (tested == ["defined"]) != negated else "false"
                found.append((begin, after[1 + negated][3], text))
            continue
        if (call := _literal_call(tokens, number + 1)) is not None:
            found.append((begin, call[0], repr(moment.strftime(call[1]))))
    return found


def _literal_call(tokens: list[tuple[str, str, int, int]], number: int) -> tuple[int, str] | None:
    """The end of a call with one string argument, starting at its bracket, and that string."""
    words = [token[1] for token in tokens[number : number + 3]]
    if words[:1] != ["("]:
        return None
    number += 3 if words[1:] == ["format", "="] else 1
    format = ""
    first = number
    while tokens[number][0] == "string":  # Jinja joins adjacent strings
        format += tokens[number][1][1:-1].encode("ascii", "backslashreplace").decode("unicode-escape")
        number += 1
    return (tokens[number][3], format) if number > first and tokens[number][1] == ")" else None


def _tokens(template: str) -> list[tuple[str, str, int, int]]:
    """Kind, text, begin and end of each token of a template; the lexer omits white space that `-` strips."""
    found, end = [], 0
    for _, kind, value in _JINJA.lex(template):
        begin = template.index(value, end)
        end = begin + len(value)
        if kind not in _SKIPPED:
            found.append((kind, value, begin, end))
    return found
