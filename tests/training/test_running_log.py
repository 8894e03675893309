"""What a run writes and prints while it trains: its log on disk after every entry; lines if there is no terminal."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from transformers import TrainerCallback

from rm_toolkit.training import running_log


SECONDS = re.compile(r"runtime|_per_second|total_flos")


class Reader(TrainerCallback):
    """Reads the log at the end of each step, as `watch` does; raises at one step, to act as a kill."""

    def __init__(self, folder, read_json, killed_at=None):
        self.path, self.read_json, self.killed_at, self.seen = (
            Path(folder, "training_log.json"),
            read_json,
            killed_at,
            {},
        )

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.killed_at:
            raise RuntimeError("killed")
        if self.path.is_file():
            self.seen[state.global_step] = self.read_json(self.path)


def without_times(log):
    return [{key: value for key, value in entry.items() if not SECONDS.search(key)} for entry in log["log_history"]]


def test_the_log_is_on_the_disk_as_it_goes_and_a_resumed_run_goes_on_with_it(
    make_trainer, rows, tmp_path, read_json, monkeypatch, capsys
):
    monkeypatch.setattr(running_log, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(running_log, "LARGEST_PART", 1e9)
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "eval_on_start": True, "eval_strategy": "steps",
               "eval_steps": 2, "disable_tqdm": False}  # fmt: skip

    def make(name, killed_at=None):
        reader = Reader(tmp_path / name, read_json, killed_at)
        sets = {"general": rows.pairs(3, seed=1)}
        trainer = make_trainer(
            rows.pairs(16), eval_rows=sets, output_dir=str(tmp_path / name), callbacks=[reader], **options
        )
        return trainer, reader

    whole, reader = make("whole")
    whole.train()
    whole.save_results()
    expected = read_json(tmp_path / "whole" / "training_log.json")
    assert expected["pairs_per_step"] == 4 and expected["max_steps"] == 4
    assert [len(reader.seen[step]["log_history"]) for step in (0, 1, 3)] == [1, 2, 5]  # an evaluation is an entry, too
    assert reader.seen[3]["log_history"] == expected["log_history"][:5]
    said = capsys.readouterr()
    assert "step 4/4" in said.out and not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", said.out + said.err)

    killed, _ = make("killed", killed_at=3)
    with pytest.raises(RuntimeError):
        killed.train()
    left = read_json(tmp_path / "killed" / "training_log.json")
    assert without_times(left) == without_times(expected)[:5], "what was logged is there after a kill"
    resumed, reader = make("killed")
    resumed.train(resume_from_checkpoint="auto")
    resumed.save_results()
    assert without_times(read_json(tmp_path / "killed" / "training_log.json")) == without_times(expected)


def test_a_long_log_is_written_rarely(monkeypatch, tmp_path):
    written = []
    monkeypatch.setattr(running_log, "write_log", lambda folder, log: written.append(len(log["log_history"])))
    monkeypatch.setattr(running_log.time, "monotonic", lambda: clock[0])
    clock, state = [0.0], type("State", (), {"log_history": [], "max_steps": 9, "is_world_process_zero": True})()
    trainer = type("Trainer", (), {"state": state, "pairs_per_step": 8})()
    args = type("Args", (), {"should_save": True, "output_dir": str(tmp_path)})()
    log = running_log.RunningLog(trainer)

    def logged(at):
        clock[0] = at
        state.log_history.append({"step": 1})
        log.on_log(args, state, None)

    logged(0.0)
    assert written == [], "an evaluation outside of training is no run"
    log.on_train_begin(args, state, None)
    for at in (0.0, 0.5, 0.9, 1.5):
        logged(at)
    assert written == [2, 5], "once a second at most"
    logged(1.6)
    log.on_save(args, state, None)
    log.on_train_end(args, state, None)
    assert written == [2, 5, 6], "all of it at a checkpoint; nothing twice"
