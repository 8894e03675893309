"""The date of a chat template is written into it, so that it renders the same on every day and in every program."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

import pytest
import trl
from jinja2 import Environment
from jinja2.ext import loopcontrols
from transformers import AutoTokenizer
from transformers.utils import chat_template_utils

from rm_toolkit.batches.chat_clock import change_date, check_date, reads_clock, recorded_date, with_date, without_clock
from rm_toolkit.errors import InputError


DAY = "2026-03-05"
OF_TRL = sorted(
    path
    for path in Path(trl.__file__).parent.glob("chat_templates/*.jinja")
    if "strftime_now(" in path.read_text(encoding="utf-8") and not path.stem.endswith("_training")
)


class Day(datetime.datetime):
    """The clock of transformers' templates, stopped at noon of one day."""

    @classmethod
    def now(cls, tz=None):
        return cls(2026, 3, 5, 12, 30)


def render(template, **variables):
    """Renders a template without a clock, as other programs may."""
    return (
        Environment(extensions=[loopcontrols], trim_blocks=True, lstrip_blocks=True)
        .from_string(template)
        .render(**variables)
    )


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{ strftime_now('%d %b %Y') }}", "05 Mar 2026"),
        ('a {{- strftime_now( "%Y-%m-%d" ) -}}\n b', "a2026-03-05b"),
        ("{{ strftime_now(format='%j') | int + 1 }}", "65"),
        ("{{ strftime_now('%Y' '-%m') }}", "2026-03"),
        (r"{{ strftime_now('\u00e9 %A \' %B') }}", "é Thursday ' March"),
        ("{{ strftime_now('%H:%M:%S') }}", "00:00:00"),
        ("{% if strftime_now is defined %}{{ strftime_now('%d') }}{% else %}26{% endif %}", "05"),
        ("{{ 1 if strftime_now is not defined else 2 }}{{ strftime_now is undefined }}", "2False"),
        (
            "{# strftime_now(x) #}{% raw %}{{ strftime_now(x) }}{% endraw %}{{ strftime_now('%d') }}",
            "{{ strftime_now(x) }}05",
        ),
        ("a\r\n{%- set d = strftime_now('%d') %}\r\n{{ d }}", "a05"),
        ("{{ date_string or strftime_now('%d') }}{{ m.date() }}", "05x"),
    ],
)
def test_the_date_stands_in_place_of_the_clock(template, expected):
    fixed = without_clock(template, DAY)
    given = {"m": type("Date", (), {"date": staticmethod(lambda: "x")})}
    assert render(fixed, **given) == expected
    assert without_clock(fixed, "2030-01-01") == fixed  # nothing is left to fix


@pytest.mark.parametrize(
    ("template", "named"),
    [
        ("\n{% set f = '%d' %}{{ strftime_now(f) }}", "`strftime_now` in line 2"),
        ("{{ strftime_now('%d' ~ x) }}", "`strftime_now` in line 1"),
        ("{{ strftime_now() }}", "`strftime_now` in line 1"),
        ("{% set clock = strftime_now %}{{ clock('%d') }}", "`strftime_now` in line 1"),
        ("{{ now() }}", r"`now\(\)` in line 1"),
        ("{{ strftime_now('%d') }}\n{{ datetime.datetime.now().year }}", r"`datetime.datetime.now\(\)` in line 2"),
        ("{{ date.today() }}", r"`date.today\(\)` in line 1"),
        ("{{ get_current_time('utc') }}", r"`get_current_time\(\)` in line 1"),
    ],
)
def test_other_clocks_are_refused_in_words(template, named):
    with pytest.raises(InputError, match=rf"asks for the time with {named}; .*Write the date, or such a call"):
        without_clock(template, DAY)


@pytest.mark.parametrize(
    "template",
    [
        "{% macro now() %}5{% endmacro %}{{ now() }}",
        "{% for date in dates %}{{ date.format() }}{% endfor %}{{ today }}",
        "{% set strftime_now = 3 %}{{ strftime_now }}",
        "{{ m.strftime_now('%d') }} strftime_now('%d') {{ update() }}{{ runtime() }}",
        "{% generation %}{{ messages }}{% endgeneration %}",
        "{{ strftime_now( ",  # left as it is: rendering reports the error
    ],
)
def test_a_template_that_asks_for_no_time_stays_as_it_is(template):
    assert without_clock(template, DAY) == template


@pytest.mark.parametrize("path", OF_TRL, ids=lambda path: path.stem)
def test_published_templates_render_as_on_that_day(path, base_model, monkeypatch):
    template = path.read_text(encoding="utf-8")
    tokenizer = AutoTokenizer.from_pretrained(base_model("qwen3"))
    tokenizer.chat_template = template
    messages = [{"role": "user", "content": "river?"}, {"role": "assistant", "content": "stone"}]
    fixed = with_date(tokenizer, DAY)
    found = fixed.apply_chat_template(messages, tokenize=False)
    monkeypatch.setattr(chat_template_utils, "datetime", Day)
    assert found == tokenizer.apply_chat_template(messages, tokenize=False)
    assert "2026" in found and reads_clock(tokenizer) and not reads_clock(fixed)
    assert not re.search(r"(?<!\w)strftime_now", re.sub(r"{#.*?#}", "", fixed.chat_template, flags=re.DOTALL))


def test_a_tokenizer_says_its_date_when_it_is_saved(base_model, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(base_model("qwen3"))
    tokenizer.chat_template = {"default": "{{ strftime_now('%d') }}", "tool_use": "tools {{ strftime_now('%m') }}"}
    fixed = with_date(tokenizer, DAY)
    assert recorded_date(tokenizer) is None and "strftime_now" in tokenizer.chat_template["default"]
    fixed.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert recorded_date(again) == DAY and not reads_clock(again)
    assert again.chat_template == {"default": "{{ '05' }}", "tool_use": "tools {{ '03' }}"}
    change_date(fixed, "2027-11-12")
    assert recorded_date(fixed) == "2027-11-12"
    assert fixed.chat_template == {"default": "{{ '12' }}", "tool_use": "tools {{ '11' }}"}


def test_a_date_is_checked():
    assert check_date(None) is None and check_date(DAY) == check_date(datetime.date(2026, 3, 5)) == DAY
    for value in ("5 March", "20260305", "2026-02-30", "2026-3-5", 20260305):
        with pytest.raises(
            InputError, match=rf"`chat_date` is '{value}', which is not a date. Write it as YYYY-MM-DD"
        ):
            check_date(value)
