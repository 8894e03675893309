"""Calibrations: fitted to held-out pairs, judged on other pairs, saved with the model, refused for another model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from rm_toolkit.cli import main
from rm_toolkit.errors import InputError
from rm_toolkit.evaluation.calibrate import check_not_trained_on, fit_calibration
from rm_toolkit.models.settings import RewardModelSettings
from rm_toolkit.scoring.calibration_file import Calibration, model_fingerprint, read_calibration
from rm_toolkit.scoring.scorer import RewardScorer


def drawn(number, scale, seed=0):
    """Margins, and prompts of the pairs, of a model whose margins are `scale` times too large."""
    rng = np.random.default_rng(seed)
    size = np.abs(rng.normal(0, 2, number))
    margins = np.where(rng.random(number) < expit(size), size, -size) * scale
    return margins, [f"p{n // 2}" for n in range(number)]


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_an_overconfident_model_is_corrected_on_pairs_that_were_not_fitted_on(method):
    found = fit_calibration(*drawn(4000, 3.0), method, "m")
    assert found.before["ece"] > 0.08 > 0.03 > found.after["ece"]
    assert found.after["brier"] < found.before["brier"] and found.after["log_loss"] < found.before["log_loss"]
    if method == "temperature":
        error = found.calibration.record["temperature_standard_error"]
        assert abs(found.calibration.temperature - 3) < 4 * error and 0.02 < error < 0.3
    fresh, _ = drawn(20_000, 3.0, seed=1)
    # Among the pairs to which it gives probability p, a share p is ranked correctly.
    p = found.calibration.probability(np.abs(fresh))
    for low, high in ((0.5, 0.7), (0.7, 0.9), (0.9, 0.99)):
        inside = (p >= low) & (p < high)
        assert (fresh[inside] > 0).mean() == pytest.approx(p[inside].mean(), abs=0.03)


def test_what_is_shown_was_not_fitted_on():
    # Whether a pair is ranked correctly is random: only a curve that was fitted to these pairs can follow it.
    rng = np.random.default_rng(3)
    margins = rng.uniform(0, 1, 1000) * rng.choice([-1, 1, 1], 1000)
    found = fit_calibration(margins, [str(n) for n in range(1000)], "isotonic", "m")
    seen = found.calibration.logits(margins)
    assert np.logaddexp(0, -seen).mean() < found.after["log_loss"] - 0.005


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_both_orders_are_one_statement_and_p_grows_with_the_margin(method):
    calibration = fit_calibration(*drawn(1200, 0.5), method, "m").calibration
    margins = np.linspace(-30, 30, 301)
    p = calibration.probability(margins)
    assert p == pytest.approx(1 - p[::-1], abs=1e-12) and (np.diff(p) >= 0).all()
    assert calibration.probability(np.zeros(1)) == pytest.approx(0.5) and 0 <= p[0] < 0.5 < p[-1] <= 1
    assert expit(calibration.logits(margins)) == pytest.approx(p)


@pytest.mark.parametrize(
    ("margins", "prompts", "method", "said"),
    [
        (drawn(99, 1)[0], None, "temperature", "99 pairs; a calibration needs at least 100"),
        (drawn(999, 1)[0], None, "isotonic", "999 pairs; a calibration needs at least 1,000"),
        (drawn(200, 1)[0], ["p"] * 200, "temperature", "1 prompts; a calibration needs at least 20"),
        (np.ones(200), None, "temperature", "ranks all of the 200 pairs correctly"),
        (-np.ones(200), None, "temperature", "no better than chance"),
        (np.zeros(200), None, "temperature", "both rewards of every pair are equal"),
    ],
)
def test_what_cannot_be_fitted_is_refused(margins, prompts, method, said):
    with pytest.raises(InputError, match=said):
        fit_calibration(margins, prompts or [str(n) for n in range(len(margins))], method, "m")


def test_ties_and_an_uncertain_fit_are_told():
    margins, prompts = drawn(120, 20.0)
    margins[:40] = 0
    notes = " ".join(fit_calibration(margins, prompts, "temperature", "m").notes)
    assert "40 of 120 pairs have equal rewards" in notes and "has a standard error of" in notes


def test_a_set_that_the_model_was_trained_on_is_refused(tmp_path):
    file = tmp_path / "dsp.json"
    file.touch()
    trained = {"a": {"spec": {"path": str(file), "source": "dsp", "domain": "law"}}, "b": {"spec": "folder"}}
    settings = RewardModelSettings(lineage=[{"stage": "grft", "datasets": trained}])
    own = {"path": str(file), "source": "dsp", "domain": "law"}
    # The pairs of another domain in the file have the same prompts and texts.
    for spec in (own, {**own, "domain": "art"}, {"path": "folder", "split": "train"}):
        with pytest.raises(InputError, match="the model was trained on '"):
            check_not_trained_on(settings, {"mine": spec}, "test")
    check_not_trained_on(settings, {"mine": "folder", "other": str(tmp_path / "other.json")}, "test")


@pytest.fixture
def model(reward_model, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(reward_model(), folder)
    return folder


def test_probabilities_of_the_scorer(model, rows):
    pairs = rows.pairs(3)
    texts = [[row[name] for row in pairs] for name in ("prompt", "chosen", "rejected")]
    plain = RewardScorer(model)
    margins = np.array(plain.score(texts[0], texts[1])) - np.array(plain.score(texts[0], texts[2]))
    assert plain.win_probability(*texts) == pytest.approx(expit(margins), abs=1e-6)
    with pytest.raises(InputError, match=r"has no `calibration.json`"):
        RewardScorer(model, calibrated=True)
    Calibration("temperature", model_fingerprint(model), 4.0).save(model)
    calibrated = RewardScorer(model, calibrated=True)
    assert calibrated.win_probability(*texts) == pytest.approx(expit(margins / 4), abs=1e-6)
    assert calibrated.score(texts[0], texts[1]) == plain.score(texts[0], texts[1]), "rewards stay as they are"
    assert plain.win_probability(*texts) != calibrated.win_probability(*texts)
    with pytest.raises(InputError, match="2 completions and 1 others"):
        plain.win_probability(["p"] * 2, ["a", "b"], ["c"])
    for options, said in (({"adapters": {"a": "x"}}, "`adapters`"), ({"endpoint": "http://x"}, "`endpoint`")):
        with pytest.raises(InputError, match=said):
            RewardScorer(model, calibrated=True, **options)
    with pytest.raises(InputError, match="loaded model"):
        RewardScorer(plain.model, plain.tokenizer, calibrated=True)


def test_a_model_that_changed_since_is_refused_and_a_copy_is_not(model, tmp_path, read_json):
    (Path(model) / "chat_template.jinja").write_text("{{ messages }}")
    Calibration("temperature", model_fingerprint(model), 2.0, record={"fitted_on": {}}).save(model)
    copy = tmp_path / "copy"
    shutil.copytree(model, copy)
    config = {**read_json(copy / "config.json"), "_name_or_path": "elsewhere", "transformers_version": "6"}
    (copy / "config.json").write_text(json.dumps(config))
    assert read_calibration(copy) == read_calibration(model)
    changes = {
        "model.safetensors": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        "rm_toolkit.json": lambda data: data.replace(b'"max_length": 128', b'"max_length": 64'),
        "chat_template.jinja": lambda data: data + b"!",
        "config.json": lambda data: data.replace(b'"num_attention_heads": 2', b'"num_attention_heads": 1'),
    }
    for name, change in changes.items():
        before = (copy / name).read_bytes()
        (copy / name).write_bytes(change(before))
        assert (copy / name).read_bytes() != before
        with pytest.raises(
            InputError, match=r"was fitted to another model: weights or settings of .* have changed since"
        ):
            read_calibration(copy)
        (copy / name).write_bytes(before)


@pytest.mark.parametrize(
    "values",
    [
        "{",
        "[]",
        {"method": "magic"},
        {"method": "temperature", "temperature": 0},
        {"method": "temperature", "temperature": "2"},
        {"method": "isotonic", "margins": [0, 1], "probabilities": [0.5, 1.0]},
        {"method": "isotonic", "margins": [0, 1, 1], "probabilities": [0.5, 0.6, 0.7]},
        {"method": "isotonic", "margins": [0, 1], "probabilities": [0.7, 0.6]},
        {"method": "isotonic", "margins": [], "probabilities": []},
    ],
)
def test_a_damaged_file_is_refused_in_words(model, values):
    text = values if isinstance(values, str) else json.dumps({"model": "x", **values})
    (model / "calibration.json").write_text(text)
    with pytest.raises(InputError, match=r"calibration.json cannot be read \(.*\). Fit it again with"):
        read_calibration(model)


def test_the_command_fits_shows_and_keeps(model, rows, tmp_path, capsys, read_json):
    pairs = rows.pairs(160)
    scorer = RewardScorer(model)
    rewards = {
        name: scorer.score([row["prompt"] for row in pairs], [row[name] for row in pairs])
        for name in ("chosen", "rejected")
    }
    rng = np.random.default_rng(0)
    for row, first, second in zip(pairs, *rewards.values()):  # labels that the model agrees with three times in four
        if (first < second) == (rng.random() < 0.75):
            row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    data = tmp_path / "held_out.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in pairs))
    command = ["calibrate", "--model", str(model), "--datasets", f"mine={{path: {data}, source: preference}}"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "calibrated" in said and "temperature" in said and "fitted to 160 pairs of 160 prompts" in said
    found = read_json(model / "calibration.json")
    assert found["fitted_on"]["mine"]["num_pairs"] == 160 and str(tmp_path) not in json.dumps(found)
    assert found["not_fitted_on"]["after"]["log_loss"] > 0
    assert RewardScorer(model, calibrated=True).calibration.temperature == found["temperature"]
    assert main(command) == 2 and "Pass --overwrite" in capsys.readouterr().err
    assert main(["calibrate", "--model", "nobody/nothing", *command[3:]]) == 2
    assert "is not a local folder" in capsys.readouterr().err


def test_a_scored_file_says_how_likely_each_completion_is_the_better(model, tmp_path, capsys):
    rows = [
        {"prompt": "p", "completions": ["river", "stone window"]},
        {"prompt": "q", "completions": ["a", "bridge", "orange"]},
    ]
    file, out = tmp_path / "rows.jsonl", tmp_path / "scored.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["score", "--model", str(model), "--input", str(file), "--output", str(out), "--calibrated"]
    assert main(command) == 2 and "has no `calibration.json`" in capsys.readouterr().err
    calibration = Calibration("temperature", model_fingerprint(model), 2.0)
    calibration.save(model)
    assert main(command) == 0
    first, second = map(json.loads, out.read_text().splitlines())
    (better, worse), p = first["reward"], first["win_probability"]
    assert p == pytest.approx([expit((better - worse) / 2), expit((worse - better) / 2)])
    r = np.array(second["reward"])
    assert second["win_probability"][1] == pytest.approx((expit((r[1] - r[0]) / 2) + expit((r[1] - r[2]) / 2)) / 2)
    assert sum(second["win_probability"]) == pytest.approx(1.5)
    file.write_text(json.dumps({"prompt": "p", "completion": "river"}) + "\n")
    assert main([*command, "--overwrite"]) == 2
    assert "line 1: `completion` is not a list of two or more completions" in capsys.readouterr().err
