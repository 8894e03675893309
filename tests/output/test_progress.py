"""Progress bars are drawn on a terminal; elsewhere, lines are printed."""

from __future__ import annotations

import io
import os
import sys

import pytest

from rm_toolkit.output import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("stream", "shown"), [(Terminal(), True), (io.StringIO(), False), (None, False)])
def test_a_bar_is_for_a_terminal(monkeypatch, stream, shown):
    monkeypatch.setattr(sys, "stderr", stream)
    for name in progress.QUIET:
        monkeypatch.setenv(name, "")  # so that it is restored afterwards
        monkeypatch.delenv(name)
    assert progress.no_bar() is not shown and progress.no_bar(show=False)
    progress.hide_bars_of_libraries()
    assert [os.environ.get(name) for name in progress.QUIET] == [None if shown else "1"] * 2


def test_what_the_user_set_for_the_libraries_stays(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    for name in progress.QUIET:
        monkeypatch.setenv(name, "0")
    progress.hide_bars_of_libraries()
    assert [os.environ[name] for name in progress.QUIET] == ["0", "0"]


def test_a_line_is_written_at_once(monkeypatch):
    flushed = []

    class File(io.StringIO):
        def flush(self):
            flushed.append(self.getvalue())

    monkeypatch.setattr(sys, "stdout", File())
    progress.say("step 1/2")
    assert flushed[-1] == "step 1/2\n"


@pytest.mark.parametrize(
    ("stream", "no_color", "term", "said"),
    [
        (Terminal, "", "xterm", "\033[36mhelpful .9\033[0m\n"),
        (Terminal, "1", "xterm", "helpful .9\n"),
        (Terminal, "", "dumb", "helpful .9\n"),
        (io.StringIO, "", "xterm", "helpful .9\n"),
    ],
)
def test_colours_are_for_a_terminal_whose_user_wants_them(monkeypatch, stream, no_color, term, said):
    out = stream()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", term)
    progress.say("helpful .9", stands_out=True)
    assert out.getvalue() == said
    progress.say("step 1")
    assert out.getvalue() == said + "step 1\n"
