"""Untrusted chat templates: rendered in bounded time and memory, and to the same strings as without limits."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers.utils import chat_template_utils

from rm_toolkit.batches.rendering import RefusedText, render_whole
from rm_toolkit.batches.template_limits import BoundedEnvironment, TemplateLimitError
from rm_toolkit.models.tokenizer import DEFAULT_CHAT_TEMPLATE, load_tokenizer


sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from folder_values import WRONG_TEMPLATES


TEXT = ([{"role": "user", "content": "a"}], [{"role": "assistant", "content": "b"}])
HARMFUL = {name: text.decode() for name, text in WRONG_TEMPLATES.items() if name != "is not UTF-8"}
# What real chat templates use: loops, namespaces, macros, filters, methods, slices, tests, tools.
USUAL = (
    "{%- macro part(x) %}{{ x | trim }}{% endmacro %}{% set ns = namespace(last=-1, seen=false) %}"
    "{% for m in messages[::-1] %}{% if m.role == 'user' and not ns.seen %}{% set ns.seen = true %}"
    "{% set ns.last = (messages | length - 1) - loop.index0 %}{% endif %}{% endfor %}"
    "{% if tools %}{{ '# Tools\n' + (tools | tojson(indent=2)) }}{% endif %}"
    "{% for m in messages %}{% if loop.index0 > 9 %}{% break %}{% endif %}{{ '<|' ~ m['role'] ~ loop.index ~ '|>' }}"
    "{% if '</think>' in m.content %}{{ m.content.split('</think>')[-1].lstrip('\n').replace('  ', ' ') }}"
    "{% else %}{{ part(m.content) ~ '%s-%d' % ('x', 3) ~ '{:>6}'.format('r') ~ ('-' * 3) ~ m.content.center(9) }}{% endif %}"
    "{{ [m.role, 'b'] | join(', ') | upper }}{{ m.content | indent(2) }}{{ 7 // 2 + 2 ** 3 }}{% endfor %}{{ ns.last }}"
)


@pytest.mark.parametrize("template", [USUAL, DEFAULT_CHAT_TEMPLATE])
def test_a_usual_template_writes_the_same_as_without_limits(template):
    messages = [
        {"role": role, "content": content}
        for role, content in [("user", "Hello  you\nthere"), ("assistant", "<think>a</think>\nb  c"), ("user", " ü ")]
        * 5
    ]
    given = {
        "messages": messages,
        "tools": [{"name": "f", "parameters": {"x": [1, None]}}],
        "add_generation_prompt": True,
    }
    written = []
    for environment in (ImmutableSandboxedEnvironment, BoundedEnvironment):
        jinja = environment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
        written.append(jinja.from_string(template).render(**given))
    assert written[0] == written[1] and len(written[0]) > 100


@pytest.mark.parametrize("name", HARMFUL)
def test_a_harmful_template_ends_in_one_line_soon_and_takes_little_memory(name, base_model):
    tokenizer = load_tokenizer(base_model())
    tokenizer.chat_template = HARMFUL[name]
    begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises((RefusedText, TemplateLimitError), match="chat template") as error:
        render_whole([TEXT], tokenizer, "chat")
    assert "\n" not in str(error.value)
    assert (
        time.monotonic() - begun < 30 and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20
    )  # KiB


def test_what_a_template_may_do_grows_with_what_it_is_given():
    jinja = BoundedEnvironment()
    template = jinja.from_string("{% for m in messages %}{{ m }}{% endfor %}{{ messages | join('') }}")
    large = ["word " * 200_000] * 40  # 40 MB, more than the limit on work without input
    assert len(template.render(messages=large)) == 80_000_000


def test_every_tokenizer_of_the_process_renders_within_the_limits():
    assert chat_template_utils.ImmutableSandboxedEnvironment is BoundedEnvironment
    with pytest.raises(TemplateLimitError, match=r"and may never end\. Check `chat_template\.jinja`"):
        chat_template_utils.render_jinja_template([TEXT[0]], chat_template=HARMFUL["never ends"])
