"""A study runs each missing cell once, and reports the cells that it could not run."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from browser import look_over
from shared_start import LAW, general_stage, shared_start

from rm_toolkit.errors import InputError
from rm_toolkit.output.lock import WriterLock
from rm_toolkit.study import runner as runner_module
from rm_toolkit.study.grid import load_study
from rm_toolkit.study.report import write_report
from rm_toolkit.study.runner import StudyRunner


def calls(study):
    path = Path(study.output_dir, "calls.txt")
    return Counter(path.read_text().split()) if path.exists() else Counter()


@pytest.fixture
def study(study_file):
    return load_study(study_file(seeds=[0]))


def test_every_cell_runs_once_and_leaves_its_result(study):
    runner = StudyRunner(study)
    assert runner.run()
    assert calls(study) == Counter(cell.name for cell in runner.cells)
    for cell in runner.cells:
        found = runner.result(cell)
        assert found["cell"]["strategy"] == cell.strategy and "--output_dir" in found["command"]
        kept = (runner.folder(cell) / "model").exists()
        assert kept is (cell.stage == "grft"), "only the models that others start from are kept"
        assert not list(runner.folder(cell).rglob("checkpoint-*"))
    assert StudyRunner(study).run() and set(calls(study).values()) == {1}, "what is done stays done"


SHARED = {"crft": shared_start(), "grft": general_stage({"a": "data/a", "b": "data/b", **LAW}), "seeds": [0]}


def test_runs_that_do_not_evaluate_at_the_start_take_it_from_grft(study_file):
    runner = StudyRunner(load_study(study_file(**SHARED)))
    assert runner.run()
    for cell in runner.cells:
        results = runner.result(cell)["results"]
        if cell.start is not None:
            assert results["start"] == runner.result(cell.start)["results"]["end"]
            assert results["end"]["a"]["accuracy"] < results["start"]["a"]["accuracy"] + 0.1


def test_a_broken_cell_stops_what_starts_from_it_and_nothing_else(study):
    broken = Path(study.output_dir, "break-grft--tiny--hh--lm0.1--seed0")
    broken.parent.mkdir(parents=True)
    broken.touch()
    runner = StudyRunner(study)
    assert not runner.run()
    reasons = {cell.name: reason for cell, reason in runner.failed.items()}
    assert reasons == {
        "grft--tiny--hh--lm0.1--seed0": "error: this cell is broken on purpose",
        **{
            f"crft--tiny--hh--lm0.1--{strategy}--law--seed0": "grft--tiny--hh--lm0.1--seed0 failed"
            for strategy in ("plain", "imitation")
        },
    }
    write_report(runner)
    text = Path(study.output_dir, "README.md").read_text()
    assert "5 of 8 runs" in text and "this cell is broken on purpose" in text
    broken.unlink()
    assert StudyRunner(study).run()
    assert calls(study).pop("grft--tiny--hh--lm0.1--seed0") == 2


def test_a_cell_that_another_runner_holds_is_left_to_it(study, monkeypatch):
    """The lock is released while this runner waits; it then finds the other's result and continues."""
    runner, other = StudyRunner(study), StudyRunner(study)
    held = runner.cells[0]
    runner.folder(held).mkdir(parents=True)
    lock = WriterLock(runner.folder(held), alone=True)
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        lock.release()
        other._compute(held, other.folder(held))

    monkeypatch.setattr(runner_module.time, "sleep", sleep)
    assert runner.run() and len(waits) == 1 and calls(study)[held.name] == 1


def test_a_stopped_study_says_that_it_goes_on_and_does(study, monkeypatch):
    runner = StudyRunner(study)
    call, told = runner_module.call, []

    def stop(words, log):
        if told:
            raise KeyboardInterrupt
        told.append(words)
        return call(words, log)

    monkeypatch.setattr(runner_module, "call", stop)
    with pytest.raises(KeyboardInterrupt) as caught:
        runner.run()
    assert caught.value.hint == "Finished runs are kept; the same command continues."
    assert [cell.name for cell in runner.cells if runner.result(cell)] == [runner.cells[0].name]
    monkeypatch.setattr(runner_module, "call", call)
    assert StudyRunner(study).run() and set(calls(study).values()) == {1}


def test_a_study_is_not_started_by_several_processes(study, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="a study launches its own runs"):
        StudyRunner(study)


def test_the_report_has_table_pictures_and_commands(study, capsys):
    runner = StudyRunner(study)
    runner.run()
    write_report(runner)
    folder = Path(study.output_dir)
    text = (folder / "README.md").read_text()
    assert "| hh | imitation | 0.800 | 0.830 | 0.300 | 0.020 | 75% | 20% | 0.080 | yes |" in text
    assert "Best of tiny for at most 1 points" not in text
    lines = json.loads((folder / "summary.json").read_text())
    assert len(lines) == 6 and {line["on_frontier"] for line in lines} == {True}
    for name in ("frontier-tiny.png", "curves-tiny.png"):
        assert (folder / "figures" / name).read_bytes().startswith(b"\x89PNG") and f"(figures/{name})" in text
    assert "│ hh, LM loss 0.1 │ imitation │" in capsys.readouterr().out
    page = (folder / "report.html").read_text()
    assert '["hh","imitation","0.800","0.830"' in page and page.count('"source":"data:image/png;base64,') == 2


@pytest.mark.slow
def test_the_page_in_a_browser(study_file):
    runner = StudyRunner(load_study(study_file()))
    runner.run()
    write_report(runner)
    for tab in look_over(Path(runner.study.output_dir) / "report.html", pictures=2):
        assert tab.locator("tbody code").count() == len(runner.cells)
        assert (
            tab.locator("tbody code").first.text_content() in (Path(runner.study.output_dir) / "README.md").read_text()
        )
