"""Every supported kind of file gives the same rows; other files are refused by name."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace

import pyarrow
import pyarrow.parquet
import pytest

from rm_toolkit.data.build import BuildOptions, build
from rm_toolkit.data.records import RecordFile, looks_like_hub_id, read_records
from rm_toolkit.errors import InputError


ROWS = [
    {"prompt": "What is it?", "chosen": "A stone,\nor two.", "rejected": "NA"},
    {"prompt": "And this?", "chosen": 'A "leaf" – 1;2', "rejected": "42"},
]
LINES = "\n".join(json.dumps(row) for row in ROWS)
PRETTY = "\n".join(json.dumps(row, indent=2) for row in ROWS)
COLUMNS = {name: [row[name] for row in ROWS] for name in ROWS[0]}
CELLS = 'prompt,chosen,rejected\r\nWhat is it?,"A stone,\nor two.",NA\r\nAnd this?,"A ""leaf"" – 1;2",42\r\n'
MARK = "\ufeff"


@pytest.fixture
def read(write):
    """`read(name, content)`: the records of a file, and their places."""

    def go(name, content):
        return list(read_records(RecordFile(write(name, content))))

    return go


FORMS = {
    "lines": ("rows.jsonl", LINES, "line"),
    "lines behind a byte-order mark": ("rows.jsonl", MARK + LINES, "line"),
    "lines of Windows": ("rows.jsonl", LINES.replace("\n", "\r\n"), "line"),
    "lines of old Macs": ("rows.jsonl", LINES.replace("\n", "\r"), "item"),
    "objects in one line": ("rows.jsonl", LINES.replace("\n", " "), "item"),
    "array": ("rows.json", json.dumps(ROWS), "item"),
    "array behind a byte-order mark": ("rows.json", MARK + json.dumps(ROWS), "item"),
    "pretty-printed array": ("rows.json", json.dumps(ROWS, indent=1), "item"),
    "pretty-printed objects": ("rows.json", PRETTY, "item"),
    "pretty-printed objects behind a mark": ("rows.json", MARK + PRETTY, "item"),
    "a list in an object": ("rows.json", json.dumps({"version": 1, "data": ROWS}), "item"),
    "a list in a pretty-printed object": ("rows.json", json.dumps({"version": "1", "rows": ROWS}, indent=2), "item"),
    "columns": ("rows.json", json.dumps(COLUMNS), "row"),
    "columns within one key": ("rows.json", json.dumps({"data": COLUMNS}), "row"),
    "rows by number": ("rows.json", json.dumps({str(n): row for n, row in enumerate(ROWS)}, indent=1), "item"),
    "columns of pandas": ("rows.json", json.dumps({k: dict(enumerate(v)) for k, v in COLUMNS.items()}), "row"),
    "columns of pandas, split": (
        "rows.json",
        json.dumps({"columns": list(COLUMNS), "index": [0, 1], "data": [list(row.values()) for row in ROWS]}),
        "row",
    ),
    "rows of the Hub's viewer": (
        "rows.json",
        json.dumps(
            {"features": [], "rows": [{"row_idx": n, "row": row, "truncated_cells": []} for n, row in enumerate(ROWS)]}
        ),
        "item",
    ),
    "CSV": ("rows.csv", CELLS, "row"),
    "CSV behind a byte-order mark": ("rows.csv", MARK + CELLS, "row"),
    "gzipped CSV": ("rows.csv.gz", CELLS, "row"),
    "a name like a pattern": ("[rows] *.csv", CELLS, "row"),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_file_gives_the_same_rows_in_every_form(read, form):
    name, content, unit = FORMS[form]
    found = read(name, content)
    assert [record for _, record in found] == ROWS
    assert {place.unit for place, _ in found} == {unit} and found[-1][0].number == 2


def test_tabs_and_what_excel_puts_between_cells_part_a_table(read):
    expected = [{"prompt": "a, b", "chosen": "c", "rejected": "d"}]
    for name, mark in (("rows.tsv", "\t"), ("rows.csv", ";"), ("rows.csv", "\t"), ("rows.csv", "|")):
        text = f'"prompt"{mark}chosen{mark}rejected\n"a, b"{mark}c{mark}d\n'
        assert [record for _, record in read(name, text)] == expected


def test_a_parquet_file_is_seen_by_its_first_bytes(tmp_path):
    path = tmp_path / "rows.data"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    assert [record for _, record in read_records(RecordFile(str(path)))] == ROWS


def test_numbers_in_cells_are_scores_where_scores_are_wanted_and_text_elsewhere(write):
    path = write("rows.csv", "prompt,chosen,rejected,score_chosen,score_rejected\n6 x 7?,42,041,4.5,2\n")
    row = build("preference", [path], BuildOptions(test_size=0)).datasets["train"][0]
    assert (row["chosen"], row["rejected"], row["score_chosen"], row["score_rejected"]) == ("42", "041", 4.5, 2.0)
    path = write("words.csv", "prompt,chosen,rejected,score_chosen,score_rejected\nQ?,a,b,high,2\n")
    with pytest.raises(InputError, match=r"line 2 \(row 1\): `score_chosen` must be a number, got the string 'high'"):
        build("preference", [path], BuildOptions(test_size=0))


def test_lists_in_cells_of_columns_of_lists_are_lists(write):
    for scores in ("[1, 2.5]", "[1,2.5]"):
        path = write("rows.csv", f"prompt,completions,scores\nQ,\"['a, b', '[c]']\",\"{scores}\"\n")
        row = build("preference", [path], BuildOptions(test_size=0, layout="ranked")).datasets["train"][0]
        assert (row["completions"], row["scores"]) == (["a, b", "[c]"], [1.0, 2.5])
    path = write("texts.csv", 'prompt,chosen,rejected\nQ,"[1, 2]",[\n')
    row = build("preference", [path], BuildOptions(test_size=0)).datasets["train"][0]
    assert (row["chosen"], row["rejected"]) == ("[1, 2]", "[")


def test_a_long_cell_is_read_whole(read):
    text = "word " * 40_000
    assert read("rows.csv", f"prompt,chosen\nQ,{text}\n")[0][1]["chosen"] == text


def test_the_line_of_a_row_is_that_of_an_editor_or_is_not_given(read):
    for mark, name in ((",", "rows.csv"), ("\t", "rows.tsv.gz")):
        lines = ["a,b", "1,2", "", '"3\n",4', "  ", '5,"6\n\n6"', "7"]
        text = "\n".join(line.replace(",", mark) for line in lines) + "\n"
        places = [place for place, _ in read(name, text)]
        # The third line ends within a cell, and the last row has only one cell.
        assert [place.where for place in places] == [f"line {n} (row {k})" for k, n in enumerate((2, 4, 7, 10), 1)]
        assert places[1].where == "line 4 (row 2)"  # also when asked again
        other = replace(places[1], cells=("3", "4"))  # as if another reader had found other cells
        assert other.where == "row 2"


def test_an_empty_cell_is_no_text(write):
    path = write("rows.csv", "prompt,chosen,rejected\nQ?,a,b\nR?,a,\n")
    message = r"line 3 \(row 2\): `rejected` is an empty cell, .*Fix or remove the row, or pass --skip-invalid"
    with pytest.raises(InputError, match=message):
        build("preference", [path], BuildOptions(test_size=0))
    assert build("preference", [path], BuildOptions(test_size=0, skip_invalid=True)).counts["train"].invalid == 1


# A single row that looks like a list or like columns but is neither.
SINGLE_ROWS = (
    {"text": ["ab", "ac"], "score": [1, 0]},
    {"prompt": "Q", "completions": [{"text": "a", "score": 1}, {"text": "b", "score": 0}]},
    {"completions": ["Q a", "Q b"], "scores": [1, 0]},
    {
        "prompt": [{"role": "user", "content": "Q"}],
        "chosen": [{"role": "assistant", "content": "a"}],
        "rejected": [{"role": "assistant", "content": "b"}],
    },
)


@pytest.mark.parametrize("row", SINGLE_ROWS)
def test_the_only_row_of_a_file_stays_one_row(read, row):
    assert [record for _, record in read("rows.jsonl", json.dumps(row))] == [row]
    assert [record for _, record in read("rows.json", json.dumps(row, indent=2))] == [row]


def test_a_broken_first_line_is_that_line_and_not_the_file(read):
    for broken in ('{"prompt": "a"}}', '{"prompt": "a"} x'):
        found = read("rows.jsonl", f"{broken}\n{LINES}")
        assert "line 1, column 16: not valid JSON (Extra data)" in str(found[0][1]).replace("column 17", "column 16")
        assert [record for _, record in found[1:]] == ROWS
    found = read("rows.jsonl", '{"prompt": "a",\n' + LINES)
    assert isinstance(found[0][1], InputError) and "line 1, column 16: not valid JSON" in str(found[0][1])
    assert [record for _, record in found[1:]] == ROWS


REFUSED = {
    "workbook": ("rows.xlsx", b"PK\x03\x04\x14\x00", "an Excel workbook .* Save the sheet as CSV in UTF-8"),
    "old workbook": ("rows.xls", b"\xd0\xcf\x11\xe0\xa1\xb1", "an Excel .* Save the sheet as CSV"),
    "sheet": ("rows.ods", b"PK\x03\x04\x14\x00", "an OpenDocument sheet"),
    "archive": ("rows.zip", b"PK\x03\x04\x14\x00", "a zip archive. Unpack it first"),
    "zstd": ("rows.jsonl.zst", b"\x28\xb5\x2f\xfd\x00", "compressed with Zstandard. Unpack it first"),
    "pickle": ("rows.pkl", b"\x80\x04\x95", "a pickle, which is never opened"),
    "arrow": ("data.arrow", b"ARROW1\x00\x00", "an Arrow file. Give the folder that `save_to_disk` wrote"),
    "web page": ("rows.jsonl", b"<!DOCTYPE html>", "a web page, not data. Download the file itself"),
    "pointer": ("rows.jsonl", b"version https://git-lfs.github.com/spec/v1\n", "Fetch the file with `git lfs pull`"),
    "UTF-16": ("rows.jsonl", LINES.encode("utf-16"), "not UTF-8 but UTF-16 .* iconv -f UTF-16 -t UTF-8"),
    "UTF-16 table": ("rows.csv", CELLS.encode("utf-16"), "not UTF-8 but UTF-16"),
    "Latin-1 table": ("rows.csv", "prompt,chosen\nq,é\n".encode("latin-1"), r"not UTF-8 \(byte 0xe9\)"),
    "two splits": ("rows.json", json.dumps({"train": ROWS, "test": ROWS}), "the splits 'train', 'test'. Write each"),
    "unequal columns": (
        "rows.json",
        json.dumps({**COLUMNS, "rejected": ["a"]}),
        "differ in length .'prompt' 2, 'chosen' 2, 'rejected' 1.",
    ),
    "text": ("rows.txt", "What is it?\n", "line 1, column 1: not valid JSON .* CSV .* and Parquet files are read"),
    "cells too many": ("rows.csv", "a,b\n1,2,3\n", r"line 2 \(row 1\): 3 cells, but the first line names 2 columns"),
    "cells too many later": ("rows.csv", "a,b\n1,2\n1,2,3\n", "not a readable table .*line 3"),
    "a name twice": ("rows.csv", "a,b,a\n1,2,3\n", "the column 'a' is given twice"),
    "no rows": ("rows.csv", "a,b\n", "has no rows"),
    "nothing": ("rows.csv", "", "has no rows"),
    "broken array in an object": ("rows.json", '{\n "data": [\n  {"a": 1,}\n]}', "line 3, column 11: not valid JSON"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_read_is_refused_by_its_name(read, kind):
    name, content, message = REFUSED[kind]
    with pytest.raises(InputError, match=message):
        for _, record in read(name, content):
            if isinstance(record, InputError):
                raise record


def test_a_damaged_gzip_of_a_table_says_so(tmp_path):
    path = tmp_path / "rows.csv.gz"
    path.write_bytes(gzip.compress(CELLS.encode() * 99)[:-30])
    with pytest.raises(InputError, match="gzip file is damaged or truncated"):
        list(read_records(RecordFile(str(path))))


def test_a_mistyped_table_is_no_name_of_the_hub():
    assert not any(looks_like_hub_id(name) for name in ("rows.csv", "rows.tsv", "rows.xlsx", "rows.jsonl"))
