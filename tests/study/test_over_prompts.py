"""Intervals over test prompts: differences of runs on the same pairs, worked out by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from shared_start import LAW, general_stage, shared_start

from rm_toolkit.evaluation.pair_rewards import PairRewards, read_pair_rewards, write_pair_rewards
from rm_toolkit.study.grid import load_study
from rm_toolkit.study.over_prompts import over_prompts
from rm_toolkit.study.report import write_report
from rm_toolkit.study.runner import StudyRunner


def judged(wins):
    """One pair per prompt; 1 is right, 0 is wrong, 0.5 a tie."""
    wins = np.array(wins, dtype=np.float32)
    return PairRewards(wins, np.full(len(wins), 0.5, dtype=np.float32), np.arange(len(wins)))


START = {"a": judged([1] * 8 + [0] * 2), "b": judged([1] * 6 + [0] * 4), "dsp_law": judged([1] * 5 + [0] * 5)}
PLAIN = {"a": judged([1] * 6 + [0] * 4), "b": judged([1] * 4 + [0] * 6), "dsp_law": judged([1] * 9 + [0])}
KEPT = {"a": judged([1] * 8 + [0] * 2), "b": judged([1] * 5 + [0] * 5), "dsp_law": judged([1] * 8 + [0] * 2)}


@pytest.fixture
def study(study_file):
    return load_study(
        study_file(crft=shared_start(), grft=general_stage({"a": "data/a", "b": "data/b", **LAW}), seeds=[0])
    )


def runner_of(study, start=START, **strategies):
    """A runner whose cells have ended with these rewards."""
    cells = StudyRunner(study).cells
    found = {
        cell: {"": start} if cell.stage == "grft" else {cell.strategy: strategies[cell.strategy]} for cell in cells
    }
    return SimpleNamespace(study=study, cells=cells, pairs=lambda cell: found.get(cell, {}))


def test_differences_are_those_on_all_prompts_and_lie_in_their_intervals(study):
    plain, kept = sorted(
        over_prompts(runner_of(study, plain=PLAIN, imitation=KEPT)), key=lambda line: line.strategy, reverse=True
    )
    assert (plain.strategy, kept.strategy, kept.num_runs) == ("plain", "imitation", 1)
    assert plain.gain.value == pytest.approx(0.4) and plain.lost.value == pytest.approx(0.2)
    assert plain.more_gained is None and plain.kept is None
    assert kept.gain.value == pytest.approx(0.3) and kept.lost.value == pytest.approx(0.05)
    assert kept.more_gained.value == pytest.approx(-0.1) and kept.less_lost.value == pytest.approx(0.15)
    assert kept.kept.value == pytest.approx(0.75) and kept.relative_loss.value == pytest.approx(0.25)
    for line in (plain, kept):
        assert line.gain.low < line.gain.value < line.gain.high
        # On each set two of ten pairs are lost at most: less than nothing is not, whatever is drawn.
        assert 0 <= line.lost.low <= line.lost.value <= line.lost.high


def test_a_ratio_needs_a_denominator_above_zero(study):
    lines = over_prompts(runner_of(study, plain={**PLAIN, "a": START["a"], "b": START["b"]}, imitation=KEPT))
    kept = next(line for line in lines if line.strategy == "imitation")
    assert kept.relative_loss is None and kept.kept is not None


def test_without_the_rewards_of_grft_strategies_are_compared_with_plain_alone(study):
    start = {name: START[name] for name in ("a", "b")}
    kept = next(
        line
        for line in over_prompts(runner_of(study, start, plain=PLAIN, imitation=KEPT))
        if line.strategy == "imitation"
    )
    assert kept.gain is None and kept.lost is None and kept.kept is None
    assert kept.more_gained.value == pytest.approx(-0.1) and kept.less_lost.value == pytest.approx(0.15)


def test_runs_that_judged_other_pairs_are_not_compared(study):
    shorter = {**KEPT, "a": judged([1] * 9)}
    assert [line.strategy for line in over_prompts(runner_of(study, plain=PLAIN, imitation=shorter))] == ["plain"]


def test_the_rewards_survive_the_file(tmp_path):
    pairs = {"b": PairRewards(np.float32([1.5, -2]), np.float32([0.25, 3]), np.array([7, 2])), "a": judged([1])}
    write_pair_rewards(pairs, tmp_path / "pairs.parquet")
    found = read_pair_rewards(tmp_path / "pairs.parquet")
    assert list(found) == ["b", "a"]
    for name, own in pairs.items():
        assert np.array_equal(found[name].margins, own.margins) and np.array_equal(found[name].prompt, own.prompt)


def test_the_report_has_them_and_a_study_of_an_earlier_version_has_none(study, tmp_path):
    runner = StudyRunner(study)
    assert runner.run() and over_prompts(runner) == []
    by_cell = runner_of(study, plain=PLAIN, imitation=KEPT).pairs
    for cell in runner.cells:
        write_pair_rewards(next(iter(by_cell(cell).values())), runner.folder(cell) / "pairs.parquet")
    write_report(runner)
    text = (tmp_path / "study" / "README.md").read_text()
    assert "| hh | imitation | 1 | +0.300 [" in text and "| +0.750 [" in text
    assert '"hh","imitation","1","+0.300 [' in (tmp_path / "study" / "report.html").read_text()
