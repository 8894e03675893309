"""The output folder of a run: only one run at a time may use it, and only files of a run are removed."""

from __future__ import annotations

import runpy
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from faulty_runs import assert_same_ending, at, build, ending, in_child, train_to_end
from trees import tree

from rm_toolkit.output.holder import read_holder
from rm_toolkit.output.lock import WriterLock, lock_path


ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data(rows):
    return {"train": rows.ranked(6), "pairs": rows.pairs(4, seed=1)}


# ---- one writer ----


def test_the_second_of_two_runs_is_told_on_all_its_processes_and_changes_nothing(base_model, data, tmp_path, capfd):
    """The second run starts while the first one is in its second step."""
    options, go_on = {"max_steps": 3, "num_train_epochs": 1}, tmp_path / "go on"

    def wait():
        (tmp_path / "inside").touch()
        while not go_on.exists():
            time.sleep(0.05)

    assert in_child(train_to_end(tmp_path / "alone", base_model(), data, options)) == [0]
    first = train_to_end(tmp_path / "out", base_model(), data, options, lambda: [at(2, "on_step_end", wait)])
    codes = []
    thread = threading.Thread(target=lambda: codes.extend(in_child(first)))
    thread.start()
    while not (tmp_path / "inside").exists():
        time.sleep(0.05)
    holder, before = read_holder(lock_path(tmp_path / "out")), tree(tmp_path / "out")
    capfd.readouterr()
    try:
        assert in_child(train_to_end(tmp_path / "out", base_model(), data, options), num_processes=2) == [2, 2]
        said = capfd.readouterr().err
        assert said.count(f"error: {tmp_path}/out is being written by process {holder.pid} on host") == 1
        assert tree(tmp_path / "out") == before
    finally:
        go_on.touch()
        thread.join()
    assert codes == [0]
    assert_same_ending(ending(tmp_path / "out"), ending(tmp_path / "alone"))
    assert not lock_path(tmp_path / "out").exists()


@pytest.mark.parametrize("stage", ["sft", "grft", "crft"])
@pytest.mark.parametrize("flags", [[], ["--overwrite_output_dir", "true"], ["--resume_from_checkpoint", "auto"]])
def test_every_recipe_takes_its_output_folder_before_it_reads_it(stage, flags, tmp_path, monkeypatch, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "rm_toolkit.json").write_text("an earlier run")
    hold = "import sys; from rm_toolkit.output.lock import WriterLock; l = WriterLock(sys.argv[1]); print(); input()"
    words = [f"{stage}.py", "--output_dir", str(tmp_path / "out"), "--use_cpu", "true", "--bf16", "false"]
    words += ["--model_name_or_path", "base", "--domain", "law"] if stage == "crft" else []
    monkeypatch.setattr(sys, "argv", words + flags)
    other = subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path / "out")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )
    try:
        other.stdout.readline()
        before = tree(tmp_path)
        with pytest.raises(SystemExit, match="2"):
            runpy.run_path(str(ROOT / "recipes" / f"{stage}.py"), run_name="__main__")
        assert f"out is being written by process {other.pid} on host" in capsys.readouterr().err
        assert tree(tmp_path) == before
    finally:
        other.kill()
        other.communicate()


def test_training_from_python_takes_the_folder_for_as_long_as_it_trains(base_model, data, tmp_path):
    seen = []
    look = at(1, "on_step_end", lambda: seen.append(lock_path(tmp_path / "out").exists()))
    trainer = build(tmp_path / "out", base_model(), data, {"max_steps": 1, "save_strategy": "no"}, [look])
    trainer.train()
    assert seen == [True] and not lock_path(tmp_path / "out").exists()
    WriterLock(tmp_path / "out").release()
