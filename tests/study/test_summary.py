"""What a study concludes from its runs, worked by hand."""

from __future__ import annotations

import pytest

from rm_toolkit.study.grid import Cell, load_study
from rm_toolkit.study.summary import Estimate, best_within, curve, study_lines


def result(start, end):
    def sets(general, own):
        return {"a": {"accuracy": general + 0.05}, "b": {"accuracy": general - 0.05}, "dsp_law": {"accuracy": own}}

    history = [
        {"step": step, **{f"eval_{name}_accuracy": value["accuracy"] for name, value in sets(*values).items()}}
        for step, values in ((0, start), (3, end))
    ]
    return {
        "results": {"start": sets(*start), "end": sets(*end)},
        "pairs_per_step": 8,
        "log_history": [{"step": 1, "loss": 1.0}, *history],
    }


@pytest.fixture
def study(study_file):
    return load_study(study_file())


def cell(strategy, seed=0, data="hh"):
    return Cell("crft", "tiny", data, None if data == "none" else 0.0, seed, strategy, "law")


def test_a_mean_with_students_interval():
    """Two values 0.2 apart: standard error 0.1, t(1) = 12.706."""
    estimate = Estimate.of([0.4, 0.6])
    assert (estimate.mean, estimate.low, estimate.high) == pytest.approx((0.5, 0.5 - 1.2706, 0.5 + 1.2706), abs=1e-4)
    assert str(estimate) == "0.500 ± 1.271" and str(Estimate.of([0.25])) == "0.250"


def test_gain_loss_and_what_is_kept_of_plain(study):
    results = {
        cell("plain", 0): result((0.8, 0.5), (0.7, 0.9)),
        cell("plain", 1): result((0.8, 0.5), (0.72, 0.9)),
        cell("replay", 0): result((0.8, 0.5), (0.78, 0.88)),
        cell("replay", 1): result((0.8, 0.5), (0.78, 0.88)),
        cell("poor", 0): result((0.8, 0.5), (0.7, 0.6)),
        cell("plain", 0, "none"): result((0.5, 0.5), (0.4, 0.85)),
    }
    lines = {(line.data, line.strategy): line for line in study_lines(study, results)}
    plain, replay = lines["hh", "plain"], lines["hh", "replay"]
    assert plain.gain.mean == pytest.approx(0.4) and plain.loss.mean == pytest.approx(0.09)
    assert replay.kept_gain == pytest.approx(0.95) and replay.relative_loss == pytest.approx(0.02 / 0.09)
    assert plain.kept_gain == 1 and plain.relative_loss == 1 and plain.num_runs == 2 and plain.saved is None
    # 0.08 and 0.06 less than plain with the same seed: standard error 0.01
    assert (replay.saved.mean, replay.saved.high) == pytest.approx((0.07, 0.07 + 0.12706), abs=1e-4)
    assert lines["hh", "poor"].saved.low is None and lines["none", "plain"].saved is None
    assert lines["none", "plain"].relative_loss is None  # a random head has no ability to lose
    frontier = {key for key, line in lines.items() if line.on_frontier}
    assert frontier == {("hh", "plain"), ("hh", "replay")}
    best = best_within(list(lines.values()), allowed_loss=0.03)
    assert best["tiny"] is replay
    assert best_within(list(lines.values()), allowed_loss=0.2)["tiny"] is plain
    assert best_within(list(lines.values()), allowed_loss=0.0) == {}


def test_a_strategy_is_compared_with_plain_runs_of_its_seeds(study):
    """Of a study that is not complete: plain gained 0.4 with seed 0 and lost 0.1, but 0.1 and 0.3 with seed 1."""
    results = {
        cell("plain", 0): result((0.8, 0.5), (0.7, 0.9)),
        cell("plain", 1): result((0.8, 0.5), (0.5, 0.6)),
        cell("replay", 0): result((0.8, 0.5), (0.75, 0.9)),
        cell("anchor", 2): result((0.8, 0.5), (0.75, 0.9)),
    }
    lines = {line.strategy: line for line in study_lines(study, results)}
    assert (lines["replay"].kept_gain, lines["replay"].relative_loss) == pytest.approx((1, 0.5))
    assert lines["replay"].saved.mean == pytest.approx(0.05)
    assert lines["anchor"].kept_gain is None and lines["anchor"].relative_loss is None
    # a mean over other seeds is no match for one over all
    assert [line.strategy for line in lines.values() if line.on_frontier] == ["plain"]
    assert best_within(list(lines.values()), allowed_loss=0.25)["tiny"].strategy == "plain"


def test_what_is_lost_less_is_told_where_plain_lost_nothing(study):
    results = {cell("plain"): result((0.7, 0.5), (0.72, 0.9)), cell("replay"): result((0.7, 0.5), (0.75, 0.9))}
    replay = {line.strategy: line for line in study_lines(study, results)}["replay"]
    assert replay.saved.mean == pytest.approx(0.03) and replay.relative_loss is None


def test_merged_models_are_strategies_of_their_own(study):
    run = result((0.8, 0.5), (0.7, 0.9))
    run["merged"] = {"0.5": {"a": 0.82, "b": 0.76, "dsp_law": 0.86}}
    lines = {line.strategy: line for line in study_lines(study, {cell("plain"): run})}
    merged = lines["merged 0.5"]
    assert merged.kept_gain == pytest.approx(0.9) and merged.relative_loss == pytest.approx(0.1)
    assert lines["plain"].kept_gain == 1 and merged.on_frontier
    other = {line.strategy: line for line in study_lines(study, {cell("plain"): run, cell("replay"): run})}
    assert set(other) == {"plain", "merged 0.5", "replay", "replay merged 0.5"}


def test_curves_count_training_pairs(study):
    points = curve(study, cell("plain"), result((0.8, 0.5), (0.7, 0.9)))
    assert points["customized"] == [(0, 0.5), (24, 0.9)]
    assert points["general"] == [(0, pytest.approx(0.8)), (24, pytest.approx(0.7))]
