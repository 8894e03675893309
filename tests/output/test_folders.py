"""Output folders appear whole or not at all, and only a command's own output is ever replaced."""

import pytest

from rm_toolkit.errors import InputError
from rm_toolkit.output.folders import check_output, replace_text, replaced_file, written_whole
from rm_toolkit.output.markdown import number, table, with_interval
from rm_toolkit.output.plotting import shorten, slug


def test_a_failure_leaves_the_earlier_output_and_nothing_else(tmp_path):
    folder = tmp_path / "deep" / "out"
    with written_whole(folder) as new:
        (new / "mark").write_text("first")
        assert not folder.exists()
    with pytest.raises(RuntimeError), written_whole(folder) as new:
        (new / "mark").write_text("second")
        raise RuntimeError
    assert (folder / "mark").read_text() == "first"
    assert [path.name for path in folder.parent.iterdir()] == ["out"]
    with written_whole(folder) as new:
        (new / "other").write_text("third")
    assert [path.name for path in folder.iterdir()] == ["other"]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "table.json"
    replace_text(path, "Zürich\n")
    assert path.read_bytes() == "Zürich\n".encode()
    with pytest.raises(RuntimeError), replaced_file(path) as file:
        file.write("half")
        assert path.read_text(encoding="utf-8") == "Zürich\n"
        raise RuntimeError
    assert path.read_text(encoding="utf-8") == "Zürich\n"
    with replaced_file(path, "wb") as one, replaced_file(path, "wb") as other:  # two writers never share a file
        one.write(b"1")
        other.write(b"\xff")
    assert path.read_bytes() == b"1"
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.json"]


def test_what_may_be_written(tmp_path):
    check_output(tmp_path / "new", False, marker="mark", command="work")
    (tmp_path / "a file").write_text("")
    with pytest.raises(InputError, match="a file has that name"):
        check_output(tmp_path / "a file", True, marker="mark", command="work")
    with pytest.raises(InputError, match="not a writable folder"):
        check_output(tmp_path / "a file" / "below", True, marker="mark", command="work")
    with pytest.raises(InputError, match=r"in use\. Use another one, or pass --overwrite"):
        check_output(tmp_path, False, marker="mark", command="work")
    with pytest.raises(InputError, match="work did not write this folder"):
        check_output(tmp_path, True, marker="mark", command="work")
    (tmp_path / "mark").write_text("")
    check_output(tmp_path, True, marker="mark", command="work")


def test_names_and_numbers_in_reports():
    assert (slug("a b/c:1"), slug("..")) == ("a-b-c-1", "model")
    assert (shorten("abcdefghij", 5), shorten("abcde", 5)) == ("ab…ij", "abcde")
    assert table(["a|b", "n"], [["x\ny", "1"]]) == "| a\\|b | n |\n|---|---:|\n| x y | 1 |"
    assert (number(None), number(0.25, 1), number(2.0, 0, sign=True)) == ("–", "0.2", "+2")
    assert with_interval({"value": 0.5, "low": 0.25, "high": 0.75}) == "0.500 [0.250, 0.750]"
    assert with_interval({"value": 0.5, "low": None, "high": None}, sign=True) == "+0.500"
