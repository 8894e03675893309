"""`rm-toolkit score` adds rewards to the rows of any input, in order. Killed and resumed, it writes the same bytes."""

from __future__ import annotations

import contextlib
import datetime
import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from rm_toolkit.cli import main
from rm_toolkit.data import tables
from rm_toolkit.data.records import RecordFile
from rm_toolkit.errors import InputError
from rm_toolkit.output.partial import PartialOutput
from rm_toolkit.scoring import files
from rm_toolkit.scoring.files import model_identity, score_file
from rm_toolkit.scoring.rows import ScoreOptions
from rm_toolkit.scoring.scorer import RewardScorer


@pytest.fixture(scope="module")
def scorer(reward_model):
    return RewardScorer(reward_model(), device="cpu")


@pytest.fixture(scope="module")
def some_rows(rows):
    """60 rows, with one completion or a list in turn, and with columns that must be kept."""
    made = rows.ranked(60, seed=4)
    for number, row in enumerate(made):
        del row["scores"]
        if number % 3 == 0:
            row["completion"] = row.pop("completions")[0]
        row.update(number=number, note={"é": [1.5, None, 10**20]}, ok=True)
    return made


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def score(model, source, output, *flags):
    return main(
        ["score", "--model", str(model), "--input", str(source), "--output", str(output), "--device", "cpu", *flags]
    )


def expected_rewards(scorer, rows):
    return scorer.score(
        [row["prompt"] for row in rows], [row.get("completion", row.get("completions")) for row in rows]
    )


def assert_rewards(found, expected):
    for reward, wanted in zip(found, expected, strict=True):
        assert isinstance(reward, list) == isinstance(wanted, list)
        np.testing.assert_allclose(reward, wanted, atol=1e-6)


def test_rows_keep_their_order_and_columns(reward_model, scorer, some_rows, tmp_path, capsys):
    source = write(tmp_path / "in.jsonl", some_rows)
    assert score(reward_model(), source, tmp_path / "out.jsonl", "--window", "7") == 0
    found = read(tmp_path / "out.jsonl")
    assert [{key: value for key, value in row.items() if key != "reward"} for row in found] == some_rows
    assert [list(row)[-1] for row in found] == ["reward"] * 60
    rewards = [row["reward"] for row in found]
    assert_rewards(rewards, expected_rewards(scorer, some_rows))
    flat = np.concatenate([np.atleast_1d(reward) for reward in rewards])
    assert f"60 rows, {len(flat)} rewards, mean {flat.mean():.4f}, standard deviation {flat.std():.4f}" in (
        capsys.readouterr().out
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl", "out.jsonl.run.json"]


def test_every_kind_of_input_gives_the_same_rewards(reward_model, some_rows, tmp_path):
    import pyarrow
    import pyarrow.parquet
    from datasets import Dataset

    plain = [{"prompt": row["prompt"], "response": row["completions"]} for row in some_rows if "completions" in row]
    write(tmp_path / "a.jsonl", plain)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    (tmp_path / "c.json").write_text(json.dumps(plain))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(plain), tmp_path / "d.parquet")
    Dataset.from_list(plain).save_to_disk(tmp_path / "e")
    outputs = []
    for name in ("a.jsonl", "b.jsonl.gz", "c.json", "d.parquet", "e"):
        assert score(reward_model(), tmp_path / name, tmp_path / f"{name}.out") == 0
        outputs.append((tmp_path / f"{name}.out").read_bytes())
    assert len(set(outputs)) == 1


def test_columns_of_parquet_without_a_json_form_become_strings(reward_model, tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows = [{"q": "river?", "a": "stone.", "day": datetime.date(2026, 11, 22), "raw": b"\xff\x00"}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "in.parquet")
    flags = ["--prompt-column", "q", "--completion-column", "a", "--reward-column", "r"]
    assert score(reward_model(), tmp_path / "in.parquet", tmp_path / "out.jsonl", *flags) == 0
    assert {key: value for key, value in read(tmp_path / "out.jsonl")[0].items() if key != "r"} == {
        "q": "river?",
        "a": "stone.",
        "day": "2026-11-22",
        "raw": "/wA=",
    }


def test_whole_texts_and_templates(reward_model, scorer, tmp_path):
    whole = "## Human:\nriver?\n\n## Assistant:\nstone."
    write(tmp_path / "whole.jsonl", [{"completion": whole}])
    write(tmp_path / "parts.jsonl", [{"prompt": "river?", "completion": "stone."}])
    assert score(reward_model(), tmp_path / "whole.jsonl", tmp_path / "1", "--no-prompt") == 0
    assert score(reward_model(), tmp_path / "parts.jsonl", tmp_path / "2", "--template", "human-assistant") == 0
    rewards = [read(tmp_path / name)[0]["reward"] for name in "12"]
    assert rewards == pytest.approx([scorer.score([""], [whole])[0]] * 2, abs=1e-6)


def test_messages_are_scored_by_a_chat_model(reward_model, tmp_path):
    def turn(role, text):
        return [{"role": role, "content": text, "name": "kept"}]

    rows = [{"prompt": turn("user", "river?"), "completions": [turn("assistant", "stone."), turn("assistant", "x")]}]
    source = write(tmp_path / "in.jsonl", rows)
    model = reward_model("qwen3", data_format="chat")
    assert score(model, source, tmp_path / "out.jsonl") == 0
    found = read(tmp_path / "out.jsonl")[0]
    assert found["completions"] == rows[0]["completions"] and len(found["reward"]) == 2
    expected = RewardScorer(model, device="cpu").score(["river?"], [["stone.", "x"]])[0]
    assert found["reward"] == pytest.approx(expected, abs=1e-6)


BAD_ROWS = {
    "no JSON": ('{"prompt": "a", "completion" "b"}', "line 3, column 30: not valid JSON"),
    "no completion": ('{"prompt": "a", "answer": "b"}', "line 3: there is no key 'completion'"),
    "a number": ('{"prompt": "a", "completion": 7}', "line 3: `completion` must be a string or a list of messages"),
    "null": ('{"prompt": null, "completion": "b"}', "line 3: `prompt` must be a string"),
    "messages for a text model": (
        '{"prompt": "a", "completion": [{"role": "assistant", "content": "b"}]}',
        "line 3: the model reads strings",
    ),
    "a reward already": ('{"prompt": "a", "completion": "b", "reward": 1}', "there is a column 'reward' already"),
}


@pytest.mark.parametrize("line, message", BAD_ROWS.values(), ids=BAD_ROWS.keys())
def test_a_bad_row_is_named_or_left_out(scorer, some_rows, tmp_path, line, message):
    source = write(tmp_path / "in.jsonl", some_rows[:5])
    lines = source.read_text().splitlines()
    lines[2] = line
    source.write_text("\n".join(lines) + "\n")
    options = ScoreOptions(window=2)

    def go(options):
        return score_file(scorer, "m", RecordFile(str(source)), tmp_path / "out", options, show_progress=False)

    with pytest.raises(InputError) as caught:
        go(options)
    assert f"{source}, {message}" in str(caught.value).replace(", line 3: there is a col", ", there is a col")
    # The first window is kept; with the flag, the run continues from there.
    assert not (tmp_path / "out").exists() and len(read(tmp_path / "out.partial")) == 2
    summary = go(ScoreOptions(window=2, skip_invalid=True))
    assert (summary.resumed_at, summary.rows, summary.invalid) == (2, 4, 1)
    assert message.split(": ")[-1] in summary.first_invalid[0]
    assert [row["number"] for row in read(tmp_path / "out")] == [0, 1, 3, 4]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.parquet"])
@pytest.mark.parametrize("content", [b"", b"PAR1" + bytes(100)])
def test_a_file_without_rows_is_one_line_with_a_bar_too(reward_model, tmp_path, capsys, name, content):
    (tmp_path / name).write_bytes(content)
    assert score(reward_model(), tmp_path / name, tmp_path / "out.jsonl") == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ") and name in said and not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("torn", [b"", b'{"prompt": "half a li', b"a whole line\n"])
@pytest.mark.parametrize("windows_done", [0, 1, 3])
def test_a_run_stopped_between_any_two_steps_goes_on_to_the_same_bytes(
    scorer, some_rows, tmp_path, monkeypatch, windows_done, torn
):
    """Stopped after some windows, with or without further bytes that are not in the journal."""
    source = RecordFile(str(write(tmp_path / "in.jsonl", some_rows)))
    options = ScoreOptions(window=13)
    score_file(scorer, "m", source, tmp_path / "whole", options, show_progress=False)
    append, done = PartialOutput.append, []

    def stop(self, data, state):
        if len(done) == windows_done:
            self.file.write(torn)
            raise KeyboardInterrupt
        done.append(1)
        append(self, data, state)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(PartialOutput, "append", stop)
        score_file(scorer, "m", source, tmp_path / "out", options, show_progress=False)
    assert not (tmp_path / "out").exists()
    summary = score_file(scorer, "m", source, tmp_path / "out", options, show_progress=False)
    assert summary.resumed_at == 13 * windows_done and summary.rows == 60
    assert (tmp_path / "out").read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.parametrize("step", ["replace", "after"])
def test_a_run_stopped_at_its_last_step_is_finished_by_the_next(scorer, some_rows, tmp_path, monkeypatch, step):
    source = RecordFile(str(write(tmp_path / "in.jsonl", some_rows)))
    replace = os.replace

    def stop(a, b):
        if str(a).endswith(".partial"):
            if step == "after":
                replace(a, b)
            raise KeyboardInterrupt
        replace(a, b)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", stop)
        score_file(scorer, "m", source, tmp_path / "out", ScoreOptions(), show_progress=False)
    computed = []
    monkeypatch.setattr(scorer, "score", lambda *a, **k: computed.append(1))
    assert score_file(scorer, "m", source, tmp_path / "out", ScoreOptions(), show_progress=False).rows == 60
    assert len(read(tmp_path / "out")) == 60 and not (tmp_path / "out.partial").exists() and not computed


def test_a_finished_output_is_left_alone_and_that_of_another_run_is_refused(reward_model, some_rows, tmp_path, capsys):
    source, output = write(tmp_path / "in.jsonl", some_rows[:4]), tmp_path / "out.jsonl"
    assert score(reward_model(), source, output) == 0
    before = output.stat().st_mtime_ns
    assert score(reward_model(), source, output) == 0  # the same run: nothing to do
    assert output.stat().st_mtime_ns == before
    other = reward_model("qwen3")
    assert score(other, source, output) == 2
    assert "is from another run: `model` was" in capsys.readouterr().err
    write(tmp_path / "in.jsonl", some_rows[:3])
    assert score(reward_model(), source, output) == 2
    assert "`input` was" in capsys.readouterr().err and len(read(output)) == 4
    assert score(reward_model(), source, output, "--overwrite") == 0
    assert len(read(output)) == 3
    (tmp_path / "mine.jsonl").write_text("precious\n")
    assert score(reward_model(), source, tmp_path / "mine.jsonl") == 2
    assert "it is not known which run wrote it" in capsys.readouterr().err
    assert (tmp_path / "mine.jsonl").read_text() == "precious\n"


def test_a_partial_output_of_another_run_is_refused(scorer, some_rows, tmp_path):
    source = write(tmp_path / "in.jsonl", [*some_rows[:4], {"prompt": 1}])
    with pytest.raises(InputError, match="`prompt` must be"):
        score_file(scorer, "m", RecordFile(str(source)), tmp_path / "out", ScoreOptions(window=2), show_progress=False)
    with pytest.raises(InputError, match=r"out.partial exists, and it is from another run: `model` was 'm', now 'n'"):
        score_file(scorer, "n", RecordFile(str(source)), tmp_path / "out", ScoreOptions(window=2), show_progress=False)


def test_two_runs_do_not_write_one_output(tmp_path):
    with PartialOutput(tmp_path / "out", {"a": 1}) as first:
        first.append(b"x\n", {})
        with pytest.raises(InputError, match="out is already being written by this process"):
            PartialOutput(tmp_path / "out", {"a": 1}).__enter__()


def test_a_run_that_scores_nothing_leaves_the_earlier_output_and_what_is_said_of_it(scorer, some_rows, tmp_path):
    good, bad = write(tmp_path / "in.jsonl", some_rows[:4]), write(tmp_path / "bad.jsonl", [{"prompt": 1}])
    score_file(scorer, "m", RecordFile(str(good)), tmp_path / "out", ScoreOptions(), show_progress=False)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InputError, match="`prompt` must be"):
        score_file(
            scorer, "n", RecordFile(str(bad)), tmp_path / "out", ScoreOptions(), overwrite=True, show_progress=False
        )
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_equal_run_that_starts_meanwhile_spoils_nothing(scorer, some_rows, tmp_path):
    """
    The race: after the output of an earlier run is read, and before anything is written, an equal run starts and
    finishes.

    Version 0.2.1 then replaced the finished file by one that began with NULs.
    """
    source, options = RecordFile(str(write(tmp_path / "in.jsonl", some_rows))), ScoreOptions(window=13)
    score_file(scorer, "m", source, tmp_path / "whole", options, show_progress=False)
    with pytest.raises(InputError), PartialOutput(tmp_path / "out", {}) as partial:  # interrupted
        lines = (tmp_path / "whole").read_bytes().splitlines(keepends=True)
        state = json.loads((tmp_path / "whole.run.json").read_text())
        partial.run = state["run"]
        partial.append(b"".join(lines[:13]), {"read": 13, "summary": {**state["summary"], "rows": 13}})
        raise InputError("stopped")

    class Meanwhile:
        def try_sharing(self):
            with contextlib.suppress(InputError):
                score_file(scorer, "m", source, tmp_path / "out", options, show_progress=False)

        def __getattr__(self, name):
            return getattr(scorer, name)

    score_file(Meanwhile(), "m", source, tmp_path / "out", options, show_progress=False)
    assert (tmp_path / "out").read_bytes() == (tmp_path / "whole").read_bytes()


SLOW = """
import sys
from rm_toolkit.output.partial import PartialOutput
from rm_toolkit.scoring import files
append = PartialOutput.append
def slow(self, *pieces):
    print("inside", flush=True)
    sys.stdin.readline()
    append(self, *pieces)
PartialOutput.append = slow
from rm_toolkit.cli import main
from rm_toolkit.data import tables
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow  # tests/output/test_lock.py tests the lock of every command
def test_the_second_of_two_equal_commands_is_told_who_writes(reward_model, some_rows, tmp_path, capsys):
    source, output = write(tmp_path / "in.jsonl", some_rows[:6]), tmp_path / "out.jsonl"
    assert score(reward_model(), source, tmp_path / "whole.jsonl") == 0
    words = ["score", "--model", reward_model(), "--input", source, "--output", output, "--device", "cpu"]
    first = subprocess.Popen(
        [sys.executable, "-c", SLOW, *map(str, words)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert first.stdout.readline() == "inside\n"
        assert score(reward_model(), source, output) == score("nowhere", source, output, "--overwrite") == 2
        said = capsys.readouterr().err
        assert said.count(f"{output} is being written by process {first.pid} on host") == 2
        first.communicate("\n", timeout=60)
    finally:
        first.kill()
    assert first.returncode == 0 and output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    before = output.stat().st_mtime_ns
    assert score(reward_model(), source, output) == 0 and output.stat().st_mtime_ns == before


def test_a_model_that_was_trained_again_is_another(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"a")
    before = model_identity(str(tmp_path), "float32", {})
    assert before == model_identity(str(tmp_path), "float32", {})
    assert before != model_identity(str(tmp_path), "bfloat16", {})
    assert before != model_identity(str(tmp_path), "float32", {"law": str(tmp_path)})
    os.utime(tmp_path / "model.safetensors", ns=(1, 1))
    assert before != model_identity(str(tmp_path), "float32", {})


def test_an_interrupted_score_with_an_adapter_does_not_go_on_with_another_base(
    reward_model, make_trainer, rows, tmp_path, capsys
):
    base, output = Path(shutil.copytree(reward_model(), tmp_path / "base")), tmp_path / "out.jsonl"
    peft_config = LoraConfig(r=2, target_modules=["q_proj"])
    make_trainer(rows.pairs(4), str(base), peft_config=peft_config).save_model(str(tmp_path / "run"))
    adapter = tmp_path / "run" / "adapter"
    source = write(tmp_path / "in.jsonl", [{"prompt": "a", "completion": "b"}, {"prompt": "a"}])
    assert score(adapter, source, output, "--window", "1") == 2  # the second row has no completion
    assert len(read(tmp_path / "out.jsonl.partial")) == 1
    before = model_identity(str(adapter), "float32", {})
    os.utime(base / "lm_head" / "model.safetensors", ns=(1, 1))  # no reward depends on it
    assert model_identity(str(adapter), "float32", {}) == before
    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"] *= 2
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    capsys.readouterr()
    assert score(adapter, source, output, "--window", "1") == 2
    assert "out.jsonl.partial exists, and it is from another run: `model` was" in capsys.readouterr().err


ARGUMENTS = {
    "an adapter without rows": (["--adapter", "law=x"], "choose the rows of each adapter"),
    "a domain without adapters": (["--domain-column", "d"], "no adapter; add --adapter NAME=DIR"),
    "a broken pair": (["--adapter", "law", "--domain", "law"], "--adapter law: write NAME=DIR"),
    "no window": (["--window", "0"], "argument --window: it is '0'"),
    "parquet out": (["--output", "x.parquet"], "the output is JSON Lines"),
    "no input": (["--input", "absent.jsonl"], "absent.jsonl: no such file"),
}


@pytest.mark.parametrize("flags, message", ARGUMENTS.values(), ids=ARGUMENTS.keys())
def test_a_mistake_in_the_arguments_is_named_before_the_model_is_loaded(tmp_path, capsys, flags, message):
    source = write(tmp_path / "in.jsonl", [{"prompt": "a", "completion": "b"}])
    assert score("nowhere", source, tmp_path / "out.jsonl", *flags) == 2
    assert message in capsys.readouterr().err


def test_memory_does_not_grow_with_the_file(scorer, tmp_path):
    """Four times the rows give the same peak, because Python and numpy hold only one window at a time."""

    def peak(num_rows):
        rng = random.Random(0)
        path = tmp_path / f"{num_rows}.jsonl"
        with path.open("w") as file:
            for number in range(num_rows):
                text = " ".join(rng.choices(["river", "stone", "lantern"], k=12))
                file.write(json.dumps({"prompt": f"{number % 9}", "completion": text, "more": "x" * 2000}) + "\n")
        tracemalloc.start()
        options = ScoreOptions(window=50)
        score_file(scorer, "m", RecordFile(str(path)), tmp_path / f"{num_rows}.out", options, show_progress=False)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most, path.stat().st_size

    peak(50)
    (small, _), (large, size) = peak(200), peak(800)
    assert large < 1.3 * small and large < size / 2


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_large_other_columns_make_a_window_smaller(scorer, tmp_path, monkeypatch, kind):
    """Rows of 60 KB (as lists, 120 KB of memory) and windows of 0.5 MB: memory does not grow with the rows."""
    monkeypatch.setattr(files, "WINDOW_SIZE", 500_000)
    monkeypatch.setattr(tables, "PARQUET_BYTES", 250_000)

    def peak(num_rows):
        rows = [
            {"prompt": "a ", "completion": f"b {number}", "more": {"deep": [["x" * 400 + str(k)] for k in range(150)]}}
            for number in range(num_rows)
        ]
        path = write(tmp_path / f"{num_rows}.jsonl", rows)
        if kind == "parquet":
            path = tmp_path / f"{num_rows}.parquet"
            Dataset.from_list(rows).to_parquet(path)
        del rows
        tracemalloc.start()
        source, output = RecordFile(str(path)), tmp_path / f"{path.name}.out"
        score_file(scorer, "m", source, output, ScoreOptions(), show_progress=False)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(read(output)) == num_rows
        return most

    peak(1)
    assert peak(60) < 1.3 * peak(15)


def test_killed_in_the_middle_and_resumed_is_the_uninterrupted_output(reward_model, some_rows, tmp_path):
    """The real command in another process, killed with -9 as soon as some windows are written."""
    source = write(tmp_path / "in.jsonl", some_rows * 40)
    command = [sys.executable, "-m", "rm_toolkit.cli", "score", "--model", reward_model(), "--input", str(source)]
    command += ["--device", "cpu", "--window", "40", "--output"]
    partial, output = tmp_path / "out.jsonl.partial", tmp_path / "out.jsonl"
    process = subprocess.Popen([*command, str(output)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 600
    journal = tmp_path / "out.jsonl.run.json"
    while not (journal.exists() and "read" in json.loads(journal.read_text())):
        assert process.poll() is None and time.monotonic() < end, "the run ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not output.exists() and partial.stat().st_size > 0
    assert 0 < json.loads(journal.read_text())["read"] < 2400
    assert score(reward_model(), source, output, "--window", "40") == 0
    assert score(reward_model(), source, tmp_path / "whole.jsonl", "--window", "40") == 0
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert len(read(output)) == 2400
