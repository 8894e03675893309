"""The journal: if its end is damaged, nothing before that is lost."""

import dataclasses

import pytest

from rm_toolkit.collection.journal import Answer, Journal, question_key
from rm_toolkit.errors import InputError


SETTINGS = {"model": "m", "temperature": 1.0}


def answers(number):
    return [Answer(f"key{k}", "law", f"Why {k}?", f"Because {k} é✓\n\u2028.", "stop") for k in range(number)]


@pytest.fixture
def path(tmp_path):
    with Journal(tmp_path / "j.jsonl", SETTINGS) as journal:
        for answer in answers(3):
            journal.add(answer)
            journal.sync()
    return tmp_path / "j.jsonl"


def test_answers_come_back(path):
    with Journal(path, SETTINGS) as journal:
        assert list(journal.answers.values()) == answers(3) and not journal.torn


def test_a_cut_anywhere_keeps_the_whole_lines_and_goes_on(path):
    whole = path.read_bytes()
    ends = [number for number, byte in enumerate(whole) if byte == 10]
    near_ends = {end + k for end in ends for k in (-1, 0, 1)}
    for cut in sorted({*range(0, len(whole), 29), *near_ends, 1, len(whole)}):
        path.write_bytes(whole[:cut])
        lines = sum(end < cut for end in ends)
        with Journal(path, SETTINGS) as journal:
            assert len(journal.answers) == max(0, lines - 1), cut
            assert journal.torn == (lines > 0 and cut - 1 not in ends)
            journal.add(dataclasses.replace(answers(1)[0], key="new"))
        with Journal(path, SETTINGS) as journal:
            assert len(journal.answers) == max(0, lines - 1) + 1 and not journal.torn


def test_a_last_line_without_its_middle_is_dropped_but_not_one_before(path):
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([*lines[:3], b"\0" * 40, b""]))
    with Journal(path, SETTINGS) as journal:
        assert len(journal.answers) == 2 and journal.torn
    path.write_bytes(b"\n".join([*lines[:2], b"\0" * 40, *lines[3:]]))
    with pytest.raises(InputError, match=r"line 3: this is not a line of a journal\. Remove"):
        Journal(path, SETTINGS)


def test_other_settings_are_refused_and_put_aside_on_request(path):
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"given with `temperature` 1.0 \(now 0.5\)"):
        Journal(path, SETTINGS | {"temperature": 0.5})
    assert path.read_bytes() == before
    with Journal(path, SETTINGS | {"temperature": 0.5}, replace=True) as journal:
        assert journal.answers == {}
    assert path.with_name("j.jsonl.old").read_bytes() == before


@pytest.mark.parametrize(
    "content", ["[1, 2]", '{"query": 1}\n', "text\n", '{"rm_toolkit_journal": 9, "settings": {}}\n']
)
def test_a_file_that_is_no_journal_is_left_alone(tmp_path, content):
    (tmp_path / "j.jsonl").write_text(content)
    with pytest.raises(InputError, match="away"):
        Journal(tmp_path / "j.jsonl", SETTINGS, replace=True)
    assert (tmp_path / "j.jsonl").read_text() == content


def test_two_runs_do_not_write_into_one_journal(path):
    with (
        Journal(path, SETTINGS),
        pytest.raises(InputError, match=r"j\.jsonl is already being written by this process"),
    ):
        Journal(path, SETTINGS)
    with Journal(path, SETTINGS) as journal:
        assert len(journal.answers) == 3


@pytest.mark.skipif("not __import__('os').path.exists('/dev/full')", reason="needs /dev/full")
def test_a_full_disk_is_an_error_and_nothing_stands_behind_half_a_line(path):
    with Journal(path, SETTINGS) as journal:
        journal._file.close()
        journal._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
        with pytest.raises(InputError, match=r"the disk is full. Make room, .* The same command continues from there"):
            journal.add(answers(1)[0])
        with pytest.raises(InputError, match="can no longer be written"):
            journal.add(answers(1)[0])


def test_a_changed_prompt_is_another_question():
    keys = {question_key(*pair) for pair in (("a", "b"), ("b", "a"), ("ab", ""), ("a", "c"))}
    assert len(keys) == 4 and question_key("a", "b") == question_key("a", "b")
