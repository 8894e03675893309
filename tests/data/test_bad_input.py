"""Every known mistake in data gives one line with file, row and remedy, and exit code 2; nothing is half-written."""

import gzip
import json

import pytest

from rm_toolkit.cli import main


GOOD = {"text": ["Q\nA", "Q\nB"], "score": [1.0, 0.0]}
PAIR = {"prompt": "Q", "chosen": "A", "rejected": "B"}
DSP = {"query": "Q", "responses": {"academy": "A", "business": "B"}}


def ts(**change):
    return json.dumps([GOOD, {**GOOD, **change}])


def lines(*rows):
    return "\n".join(json.dumps(row) for row in rows)


# name: (source, content of `rows.json`, more arguments, message)
CASES = {
    "broken array": ("text-score", '[\n {"text": ["a" "b"]}\n]', (), "rows.json, line 2, column 16: not valid JSON"),
    "broken line": (
        "hh",
        '{"chosen": "a", "rejected": "b"}\n{"chosen": "a",}',
        (),
        "rows.json, line 2, column 16: not valid",
    ),
    "cut short": ("text-score", json.dumps([GOOD])[:-4], (), "rows.json, line 1, column"),
    "pretty-printed object": ("hh", '{\n "chosen": "a"\n}', (), "line 1: there is no key 'rejected', only 'chosen'"),
    "broken in the middle of an object": (
        "hh",
        '{\n "chosen": "a",\n "rejected" "b"\n}',
        (),
        "line 3, column 13: not",
    ),
    "empty file": ("hh", "", (), "rows.json: the file has no rows"),
    "blank file": ("hh", "\n \n", (), "rows.json: the file has no rows"),
    "empty array": ("text-score", "[]", (), "rows.json: the file has no rows"),
    "latin-1": (
        "hh",
        '{"chosen": "caf\u00e9", "rejected": "b"}'.encode("latin-1"),
        (),
        "line 1: not UTF-8 (byte 0xe9)",
    ),
    "latin-1 array": ("text-score", b'[\n{"text": ["\xe9"]}]', (), "rows.json, line 2: not UTF-8 (byte 0xe9)"),
    "utf-16": ("hh", json.dumps(PAIR).encode("utf-16"), (), "Save the file in UTF-8"),
    "damaged gzip": (
        "hh",
        gzip.compress(json.dumps(PAIR).encode() * 99)[:-9],
        (),
        "gzip file is damaged or truncated",
    ),
    "not an object": ("text-score", json.dumps([GOOD, [1]]), (), "item 2: expected an object like {…}, got a list"),
    "null row": ("text-score", json.dumps([None]), (), "item 1: expected an object like {…}, got null"),
    "missing key": (
        "text-score",
        json.dumps([{"texts": []}]),
        (),
        "no key 'text', only 'texts'. Did you mean 'texts'?",
    ),
    "empty object": ("hh", "{}", (), "line 1: there is no key 'chosen', only no keys at all"),
    "text is no list": ("text-score", ts(text="ab"), (), "item 2: `text` must be a list, got the string 'ab'"),
    "text is no string": ("text-score", ts(text=["a", 3]), (), "item 2: `text[1]` must be a string, got the number 3"),
    "score is no number": ("text-score", ts(score=["1", 0]), (), "`score[0]` must be a number, got the string '1'"),
    "score is a boolean": ("text-score", ts(score=[True, 0]), (), "`score[0]` must be a number, got true"),
    "score is null": ("text-score", ts(score=[1, None]), (), "`score[1]` must be a number, got null"),
    "score is NaN": ("text-score", ts(score=[float("nan"), 0]), (), "`score[0]` is nan; scores must be finite"),
    "score is infinite": ("text-score", ts(score=[0, float("inf")]), (), "`score[1]` is inf; scores must be finite"),
    "score beyond floats": ("text-score", ts(score=[10**400, 0]), (), "`score[0]` is inf; scores must be finite"),
    "unequal lengths": (
        "text-score",
        ts(score=[1]),
        (),
        "`text` has 2 entries and `score` has 1; they must have the same length",
    ),
    "single response": (
        "text-score",
        ts(text=["a"], score=[1]),
        (),
        "`text` has 1 entry; a preference needs at least two",
    ),
    "lone surrogate": ("text-score", ts(text=["\ud83d", "b"]), (), "half of a surrogate pair (\\ud83d)"),
    "unknown domain": (
        "dsp",
        json.dumps([DSP]),
        ("--domain", "acadmy"),
        "'acadmy', but this file has 'academy', 'business'. Did you mean 'academy'?",
    ),
    "no domain": (
        "dsp",
        json.dumps([DSP]),
        (),
        "`domain` is not set. Whose answers are preferred? This row has answers of 'academy'",
    ),
    "a response is missing": (
        "dsp",
        json.dumps([DSP, {**DSP, "responses": {"academy": "A"}}]),
        ("--domain", "business"),
        "item 2: `responses` has no 'business'",
    ),
    "one response": (
        "dsp",
        json.dumps([{**DSP, "responses": {"academy": "A"}}]),
        ("--domain", "academy"),
        "only 'academy'; a preference needs at least two",
    ),
    "responses are a list": (
        "dsp",
        json.dumps([{**DSP, "responses": ["A"]}]),
        ("--domain", "academy"),
        "`responses` must be an object {domain: text}, got a list of 1",
    ),
    "a response is a number": (
        "dsp",
        json.dumps([{**DSP, "responses": {"a": 1, "b": "x"}}]),
        ("--domain", "a"),
        "`responses.a` must be a string, got the number 1",
    ),
    "hh dialogue is null": (
        "hh",
        '{"chosen": null, "rejected": "b"}',
        (),
        "line 1: `chosen` must be a string, got null",
    ),
    "webgpt question": (
        "webgpt",
        '{"question": "Why?"}',
        (),
        "`question` must be an object with 'full_text', got the string 'Why?'",
    ),
    "webgpt answer": (
        "webgpt",
        '{"question": {"full_text": "Why?"}, "answer_0": "a"}',
        (),
        "there is no key 'answer_1'",
    ),
    "gpt4llm response": (
        "gpt4llm",
        '[{"user_input": "Q", "responses_and_scores": ["a", "b"]}]',
        (),
        "`responses_and_scores[0]` must be an object with 'response' and 'score'",
    ),
    "no preference": ("jsonl", '{"question": "Q", "good": "A"}', (), "no preference found: needs chosen and rejected"),
    "half a preference": ("jsonl", '{"prompt": "Q", "chosen": "A"}', (), "`chosen` has no partner"),
    "unknown column": ("jsonl", lines(PAIR), ("--columns", "prompt=qestion"), "no column 'qestion' (for `prompt`)"),
    "unknown column of ours": ("jsonl", lines(PAIR), ("--columns", "promt=x"), "'promt' is not one of our names"),
    "columns without =": ("jsonl", lines(PAIR), ("--columns", "prompt"), "--columns prompt: write OURS=THEIRS"),
    "columns of another source": (
        "hh",
        lines(PAIR),
        ("--columns", "chosen=a"),
        "Source 'hh' does not use `columns`; remove it",
    ),
    "labels against scores": (
        "preference",
        lines({**PAIR, "score_chosen": 1, "score_rejected": 2}),
        (),
        "the labels contradict the scores",
    ),
    "one score of two": (
        "preference",
        lines({**PAIR, "score_chosen": 1}),
        (),
        "`score_rejected` must be a number, got null",
    ),
    "message without content": (
        "preference",
        lines({"chosen": [{"role": "user"}], "rejected": "b"}),
        (),
        "`chosen`, message 1: must be {'role': …, 'content': …}",
    ),
    "content is a list": (
        "preference",
        lines({"chosen": [{"role": "user", "content": []}], "rejected": "b"}),
        (),
        "`chosen[0].content` must be a string",
    ),
    "no messages": ("preference", lines({"chosen": [], "rejected": []}), (), "`chosen` is an empty list of messages"),
    "completions without scores": (
        "preference",
        lines({"prompt": "Q", "completions": ["a", "b"]}),
        (),
        "there are `completions`, but no `scores`",
    ),
    "response alone in its prompt": (
        "preference",
        lines({"prompt": "Q", "response": "a", "score": 1}),
        (),
        "`response` has 1 entry; a preference needs at least two",
    ),
    "response without score": (
        "preference",
        lines({"prompt": "Q", "response": "a"}),
        (),
        "there is `response`, but no `score`",
    ),
    "margin is text": (
        "jsonl",
        lines({**PAIR, "margin": "big"}),
        (),
        "`margin` must be a number, got the string 'big'",
    ),
    "empty after cleaning": (
        "text-score",
        json.dumps([{**GOOD, "score": [1, 1]}] * 2),
        (),
        "the split 'train' is empty after cleaning (2 records read; ties 2)",
    ),
    "all invalid": (
        "text-score",
        json.dumps([{"text": 1, "score": 2}]),
        ("--skip-invalid",),
        "none of the 1 records can be used. The first:",
    ),
    "unknown source": ("text_score", "[]", (), "there is no source 'text_score'"),
    "test size below 0": (
        "text-score",
        json.dumps([GOOD]),
        ("--test-size", "-1"),
        "argument --test-size: it is '-1'; it must be a number from 0",
    ),
    "test size of 1.5": ("text-score", json.dumps([GOOD]), ("--test-size", "1.5"), "whole if above 1"),
    "test size takes all": (
        "text-score",
        json.dumps([GOOD]),
        ("--test-size", "5"),
        "has 1 prompts; nothing would be left",
    ),
    "template for marked texts": (
        "hh",
        lines(PAIR),
        ("--template", "human-assistant"),
        "its texts have their own markers",
    ),
    "export of another kind": ("hh", lines(PAIR), ("--export", "text-scores", "x.json"), "Did you mean 'text-score'?"),
}


@pytest.mark.parametrize("case", CASES)
def test_mistake_is_named_and_nothing_is_written(case, write, tmp_path, capsys, monkeypatch):
    source, content, more, message = CASES[case]
    path, folder = write("in/rows.json", content), tmp_path / "out"
    monkeypatch.chdir(tmp_path)
    code = main(["build-data", source, "--input", path, "--output", str(folder), "--test-size", "0", *more])
    error = capsys.readouterr().err
    assert code == 2
    assert message in error
    assert error.startswith("error: ")
    assert "Traceback" not in error
    assert len(error) < 500 + error.count(str(tmp_path)) * len(str(tmp_path))
    assert {entry.name for entry in tmp_path.iterdir()} == {"in"}


# arguments after `build-data`; {rows} is a good file, {tmp} the folder it is in
PATHS = {
    "no such file": (
        ["hh", "--input", "{tmp}/row.json", "--output", "{tmp}/out"],
        "row.json: no such file. Did you mean 'rows.json'?",
    ),
    "no such folder in a local one": (
        ["hh", "--input", "data/dps", "--output", "{tmp}/out"],
        "no such file. Did you mean 'dsp'?",
    ),
    "no such folder": (["hh", "--input", "{tmp}/no/rows.json", "--output", "{tmp}/out"], "no such folder"),
    "folder without a dataset": (
        ["preference", "--input", "{tmp}", "--output", "{tmp}/out"],
        "this folder has no saved dataset",
    ),
    "hh folder without files": (
        ["hh", "--input", "{tmp}", "--output", "{tmp}/out"],
        "no train.jsonl(.gz) or test.jsonl(.gz)",
    ),
    "hh folder, other domain": (
        ["hh", "--input", "{tmp}", "--domain", "helpfull", "--output", "{tmp}/out"],
        "Did you mean 'helpful'?",
    ),
    "unknown split": (["hh", "--input", "trian={rows}", "--output", "{tmp}/out"], "there is no split 'trian'"),
    "mixed inputs": (
        ["hh", "--input", "train={rows}", "{rows}", "--output", "{tmp}/out"],
        "with and without a split's name are mixed",
    ),
    "nothing to write": (["hh", "--input", "{rows}"], "nothing to write: pass --output DIR"),
    "output is a file": (["hh", "--input", "{rows}", "--output", "{rows}"], "a file has that name"),
    "output in use": (
        ["hh", "--input", "{rows}", "--output", "{tmp}"],
        "the output folder is in use. Use another one, or pass --overwrite",
    ),
    "output not ours": (
        ["hh", "--input", "{rows}", "--output", "{tmp}", "--overwrite"],
        "build-data did not write this folder",
    ),
    "export file exists": (["hh", "--input", "{rows}", "--export", "text-score", "{rows}"], "the file exists"),
    "export of two splits": (
        ["hh", "--input", "train={rows}", "test={rows}", "--export", "text-score", "{tmp}/x"],
        "the input has two splits",
    ),
    "empty path": (
        ["hh", "--input", "", "--output", "{tmp}/out"],
        "argument --input: it is ''; it must be a string that is not empty",
    ),
    "output below a file": (
        ["hh", "--input", "{rows}", "--output", "{rows}/out"],
        "is not a writable folder",
    ),
    "export is a folder": (
        ["hh", "--input", "{rows}", "--export", "text-score", "{tmp}"],
        "a folder has that name",
    ),
    "test size is not a number": (
        ["hh", "--input", "{rows}", "--test-size", "nan", "--output", "{tmp}/o"],
        "argument --test-size: it is 'nan'",
    ),
    "test set empty after cleaning": (
        ["text-score", "--input", "train={ok}", "test={ties}", "--output", "{tmp}/out"],
        "the split 'test' is empty after cleaning",
    ),
}


@pytest.mark.parametrize("case", PATHS)
def test_mistake_in_a_path_is_named_and_nothing_is_written(case, write, tmp_path, capsys, monkeypatch):
    arguments, message = PATHS[case]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "dsp").mkdir(parents=True)
    write("ok.json", json.dumps([GOOD]))
    write("ties.json", json.dumps([{**GOOD, "score": [1, 1]}]))
    rows = write(
        "rows.json", lines({"chosen": "\n\nHuman: Q\n\nAssistant: A", "rejected": "\n\nHuman: Q\n\nAssistant: B"})
    )
    arguments = [
        argument.format(rows=rows, tmp=tmp_path, ok=tmp_path / "ok.json", ties=tmp_path / "ties.json")
        for argument in arguments
    ]
    assert main(["build-data", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert {entry.name for entry in tmp_path.iterdir()} == {"data", "rows.json", "ok.json", "ties.json"}


def test_damaged_parquet_and_half_copied_folder_are_named(write, tmp_path, capsys):
    path = write("rows.parquet", b"PAR1 and no more")
    write("saved/state.json", "{}")
    for broken, message in (
        (path, "not a readable Parquet file"),
        (tmp_path / "saved", "the saved dataset cannot be read"),
    ):
        assert main(["build-data", "preference", "--input", str(broken), "--output", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert str(broken) in error
        assert message in error


def test_dataset_that_is_not_on_the_hub_is_named(monkeypatch, capsys, tmp_path):
    import datasets

    def refuse(name):
        raise ConnectionError("offline\nand more")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    assert main(["build-data", "preference", "--input", "owner/name", "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "'owner/name' is not a local file or folder" in error
    assert "(ConnectionError: offline)" in error


def test_there_are_enough_cases():
    assert len(CASES) + len(PATHS) >= 25
