"""The help of the program and of each command fits a screen, and names every command under one task."""

from __future__ import annotations

import collections
import re
from pathlib import Path

import pytest

from rm_toolkit.cli import COMMANDS, RECIPES, TASKS, main


LINES, COLUMNS = 50, 100
ROOT = Path(__file__).parents[1]


def shown(words, capsys, monkeypatch, columns=COLUMNS):
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert not ended.value.code
    return capsys.readouterr().out


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_every_help_fits_a_screen(command, capsys, monkeypatch):
    lines = shown([*([command] if command else []), "--help"], capsys, monkeypatch).splitlines()
    assert len(lines) <= LINES
    example = next((number for number, line in enumerate(lines) if line.startswith("example")), len(lines))
    assert max(len(line) for line in lines[:example]) <= COLUMNS


def test_every_command_belongs_to_one_task_and_the_recipes_it_names_are_there(capsys, monkeypatch):
    assert collections.Counter(name for names in TASKS.values() for name in names) == dict.fromkeys(COMMANDS, 1)
    text = shown(["--help"], capsys, monkeypatch)
    for name, (_, summary) in COMMANDS.items():
        assert re.search(rf"(?m)^  {name} +{re.escape(summary)}$", text)
    for command in RECIPES:
        assert command in text and (ROOT / command.split()[2]).is_file()


def test_the_usage_line_names_what_is_required(capsys, monkeypatch):
    text = shown(["evaluate", "--help"], capsys, monkeypatch)
    usage = "usage: rm-toolkit evaluate --model MODEL … --datasets NAME=SPEC … --output DIR [options]"
    assert text.splitlines()[0] == usage


def test_a_range_is_said_in_few_words_and_without_the_bounds_of_the_machine(capsys, monkeypatch):
    text = shown(["collect", "--help"], capsys, monkeypatch)
    assert "default 8; 1 to 10,000)" in text and "(default 120; above 0)" in text and "2,147,483,647" not in text


def test_the_help_follows_the_width_of_the_terminal(capsys, monkeypatch):
    lines = shown(["inspect", "--help"], capsys, monkeypatch, 70).splitlines()
    assert max(len(line) for line in lines[: lines.index("example:")]) <= 70


def test_the_sources_are_described_where_they_are_asked_for(capsys, monkeypatch):
    lines = shown(["build-data", "--list-sources"], capsys, monkeypatch).splitlines()
    assert any(line.startswith("  webgpt  ") for line in lines) and len(lines) > 15
