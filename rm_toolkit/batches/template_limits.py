"""
Chat templates are programs from untrusted models: here they run in bounded time and memory.

transformers runs them in jinja2's sandbox, which protects the machine but does not stop an endless loop or 100 GB of
output. In this environment each rendering has a budget of work that grows with its input: every pass of a loop, every
call and every new value costs as much as its size.
"""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Callable, Iterable
from typing import Any

from jinja2 import Template, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers.utils import chat_template_utils

from ..errors import InputError


# Budget of one rendering, and its growth per input character; chat templates need about 10 per character.
WORK, WORK_A_CHARACTER = 20_000_000, 200
PASS = 20  # cost of a pass of a loop, and of a call
MOST_BITS = 100_000  # of an integer
# Methods and filters whose numeric arguments are lengths, and those for which they are lengths of each line or item.
_PADDING = {"ljust", "rjust", "center", "zfill", "wordwrap", "truncate", "batch", "slice"}
_PADDING_EACH = {"indent", "expandtabs", "tojson", "pprint"}
_FORMATTING = {"format", "format_map", "__mod__"}


class TemplateLimitError(InputError):
    """A chat template needs more time or memory than any that only writes its messages."""

    def __init__(self) -> None:
        super().__init__(
            "the chat template needs more time or memory than rendering messages takes, and may never end. Check "
            "`chat_template.jinja` (or `chat_template` in tokenizer_config.json) of the tokenizer, and restore the file or "
            "use another tokenizer."
        )


class BoundedCodeGenerator(CodeGenerator):
    """Counts every pass of a loop, every call of a macro, and every `~`."""

    def visit_Template(self, node: nodes.Template, frame: Frame | None = None) -> None:
        for block in node.find_all((nodes.For, nodes.Macro, nodes.CallBlock)):
            written = sum(len(data.data) for item in block.body for data in _within(item, nodes.TemplateData))
            spend = nodes.Call(nodes.EnvironmentAttribute("spend"), [nodes.Const(PASS + written)], [], None, None)
            spend = nodes.ExprStmt(spend).set_lineno(block.lineno).set_environment(self.environment)
            block.body.insert(0, spend)
        super().visit_Template(node, frame)

    def visit_ExprStmt(self, node: nodes.ExprStmt, frame: Frame) -> None:
        call = node.node
        if (
            isinstance(call, nodes.Call)
            and isinstance(call.node, nodes.EnvironmentAttribute)
            and call.node.name == "spend"
        ):
            self.newline(node)
            self.write(f"environment.spend({call.args[0].value})")
            return
        super().visit_ExprStmt(node, frame)

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.joined((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


def _within(node: nodes.Node, kind: type[nodes.Node]) -> Iterable[Any]:
    return [node] if isinstance(node, kind) else node.find_all(kind)


class BoundedTemplate(Template):
    """A template whose every rendering starts with the full budget."""

    def new_context(self, vars: dict[str, Any] | None = None, shared: bool = False, locals: Any = None) -> Context:
        context = super().new_context(vars, shared, locals)
        self.environment.begin(vars or {})
        return context


class _Filters(dict):
    """Filters that use the budget, including those that transformers adds."""

    def __init__(self, environment: BoundedEnvironment, filters: dict[str, Callable]):
        super().__init__()
        self.environment = environment
        for name, function in filters.items():
            self[name] = function

    def __setitem__(self, name: str, function: Callable) -> None:
        @functools.wraps(function)  # keeps the mark by which jinja2 passes its context
        def measured(*args: Any, **kwargs: Any) -> Any:
            given = args[1:] if hasattr(function, "jinja_pass_arg") else args
            return self.environment.measured(name, lambda: function(*args, **kwargs), given, kwargs)

        super().__setitem__(name, measured)


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """jinja2's sandbox with a work budget, see the docstring of this module."""

    code_generator_class = BoundedCodeGenerator
    template_class = BoundedTemplate
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._of_thread = threading.local()
        self.filters = _Filters(self, self.filters)
        self.finalize = self._written
        self.globals.pop("lipsum", None)  # writes any amount of filler text

    def begin(self, given: dict[str, Any]) -> None:
        """Called when a rendering begins, with these variables."""
        self._of_thread.left = 1 << 62  # the input itself is not limited
        self._of_thread.left = WORK + WORK_A_CHARACTER * self._size(list(given.values()))

    @property
    def left(self) -> int:
        return getattr(self._of_thread, "left", WORK)

    def spend(self, amount: int) -> None:
        """Uses some of the remaining budget."""
        left = self.left - amount
        if left < 0:
            raise TemplateLimitError
        self._of_thread.left = left

    def joined(self, parts: tuple[Any, ...]) -> str:
        """The result of `~` for its parts."""
        self.spend(PASS + sum(self._size(part) for part in parts))
        return "".join(map(str, parts))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator in ("*", "**", "+") and isinstance(left, int) and isinstance(right, int):
            bits = abs(left).bit_length() * abs(right) if operator == "**" else left.bit_length() + right.bit_length()
            self.spend(PASS if bits <= MOST_BITS else self.left + 1)
        elif operator == "*":
            sizes = [value if isinstance(value, int) else _length(value) for value in (left, right)]
            self.spend(PASS + max(0, sizes[0] * sizes[1]))
        elif operator == "+":
            self.spend(PASS + _length(left) + _length(right))
        elif operator == "%" and isinstance(left, str):
            return self.measured("__mod__", lambda: left % right, (left, right), {})
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        name, owner = getattr(__obj, "__name__", ""), getattr(__obj, "__self__", None)
        given = (owner, *args) if isinstance(owner, str) else args
        return __self.measured(
            name, lambda: super(BoundedEnvironment, __self).call(__context, __obj, *args, **kwargs), given, kwargs
        )

    def measured(self, name: str, compute: Callable[[], Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """
        Calls a method or filter; refuses results that would be too large.

        Args:
            name (`str`): Its name.
            compute (`Callable`): Calls it.
            args (`tuple`), kwargs (`dict`): Its arguments; for a method, the string comes first.
        """
        values = [*args, *kwargs.values()]
        numbers = [abs(value) for value in values if isinstance(value, int) and not isinstance(value, bool)]
        text = args[0] if args and isinstance(args[0], str) else ""
        if name in _PADDING:
            self.spend(max(numbers, default=0))
        elif name in _PADDING_EACH:
            self.spend(max(numbers, default=1) * self._size(values))
        elif name in _FORMATTING:
            widths = [int(digits) for digits in re.findall(r"\d{1,20}", text)]
            wide = numbers if "*" in text or "{}" in text.replace(" ", "")[1:] else []
            self.spend(sum(widths) + sum(number for number in wide if number > MOST_BITS) + self._size(values))
        elif name == "replace" and len(args) >= 3 and isinstance(args[1], str) and isinstance(args[2], str):
            self.spend(len(text) + text.count(args[1]) * len(args[2]))
        elif name == "join":
            self.spend(self._size(values) + len(text) * max((_length(value) for value in values[1:]), default=0))
        result = compute()
        self.spend(PASS + sum(_length(value) for value in values) // 4 + _length(result))
        return result

    def _written(self, value: Any) -> Any:
        self.spend(PASS + self._size(value))
        return value

    def _size(self, value: Any) -> int:
        """Number of characters of a value when written; stops counting beyond the remaining budget."""
        total, waiting = 0, [value]
        while waiting:
            value = waiting.pop()
            total += PASS
            if isinstance(value, str):
                total += len(value)
            elif isinstance(value, dict):
                waiting += [*value.keys(), *value.values()]
            elif isinstance(value, list | tuple):
                waiting += value
            if total > self.left:
                raise TemplateLimitError
        return total


def _length(value: Any) -> int:
    try:
        return len(value)
    except (TypeError, ValueError, OverflowError):  # a number, an iterator, something that is not defined
        return 0


def limit_chat_templates() -> None:
    """Makes transformers, and thus every tokenizer of this process, run chat templates within these limits."""
    chat_template_utils.ImmutableSandboxedEnvironment = BoundedEnvironment
