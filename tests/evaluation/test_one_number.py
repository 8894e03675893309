"""The same rows give the same numbers in training, `evaluate`, a study and the card."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from scipy.special import expit

from rm_toolkit.data.mixture import load_datasets
from rm_toolkit.evaluation import evaluate
from rm_toolkit.evaluation.metrics import mean_loss
from rm_toolkit.hub.model_card import CardOptions, Example, model_card
from rm_toolkit.losses import ranking_loss
from rm_toolkit.models.files import FINAL_RESULTS_NAME
from rm_toolkit.models.saving import save_reward_model
from rm_toolkit.study.grid import Cell
from rm_toolkit.study.summary import study_lines


DOMAINS = ("academy", "business", "law", "literature")
COUNTS = ("num_pairs", "num_ties", "num_label_ties")
MEANS = ("first_two_accuracy", "margin", "loss")


@pytest.fixture
def sets(rows, tmp_path):
    """Test sets by name, as in a recipe, with pairs and label ties counted by hand."""

    def write(name, records, **spec):
        path = tmp_path / name
        path.write_text("\n".join(map(json.dumps, records)))
        return {"path": str(path), **spec}

    dsp = [
        {
            "query": f"River {n}?",
            "responses": {name: f"{name} {'garden ' * (n + k)}." for k, name in enumerate(DOMAINS)},
        }
        for n in range(5)
    ]
    margins = rows.pairs(6, seed=3, score_chosen=lambda k: 2.0, score_rejected=lambda k: 2.0 * (k == 4) + k / 9)
    margins = [{**row, "margin": n / 2} for n, row in enumerate(margins)]
    margins[4]["score_rejected"] = 2.0  # a label tie, so its margin does not matter
    ranked = rows.ranked(8)  # with 3, 5, 4 and 2 responses; in all but the last, two tie
    same = "river stone garden lantern"
    border = [  # the same whole text, split differently into prompt and completion
        {"prompt": "river ", "chosen": "stone garden lantern", "rejected": "window"},
        {"prompt": "river stone ", "chosen": "garden lantern", "rejected": "copper"},
        {"prompt": "violin ", "chosen": same, "rejected": same},  # equal rewards
    ]
    specs = {
        "dsp_business": write("dsp.json", dsp, source="dsp", domain="business"),
        "margins": write("margins.jsonl", margins, source="jsonl"),
        "ranked": write("ranked.jsonl", ranked, source="jsonl"),
        "border": Dataset.from_list(border),
    }
    return specs, {"dsp_business": (15, 0), "margins": (5, 1), "ranked": (2 * (2 + 9 + 5 + 1), 6), "border": (3, 0)}


@pytest.fixture
def judged(make_trainer, rows, sets, tmp_path):
    """A trained model: its trainer, and what training, `evaluate` and the card report for every set."""
    specs, _ = sets
    cache = {"cache_dir": str(tmp_path / "cache")}
    loaded = {
        name: spec if isinstance(spec, Dataset) else load_datasets({name: spec}, "test", **cache)[name]
        for name, spec in specs.items()
    }
    trainer = make_trainer(
        rows.pairs(8), eval_rows=loaded, max_steps=2, eval_strategy="steps", eval_steps=2, eval_on_start=True
    )
    trainer.train()
    folder = tmp_path / "run"
    save_reward_model(trainer.model, folder, trainer.processing_class)
    trainer.save_results()
    found = evaluate({"run": str(folder)}, specs, resamples=20, show_progress=False, **cache).metrics
    card = model_card(str(folder), "me/rm", trainer.model.settings, Example("p ", "c", "p c", [1], 0.0), CardOptions())
    return trainer, found, str(card)


def test_every_number_is_the_same_in_training_evaluate_study_and_card(judged, sets, read_json, tmp_path):
    trainer, found, card = judged
    _, counted = sets
    stored = read_json(tmp_path / "run" / FINAL_RESULTS_NAME)
    logged = next(log for log in reversed(trainer.state.log_history) if "eval_ranked_accuracy" in log)
    for name, (pairs, ties) in counted.items():
        own, end, start = found["results"]["run"][name], stored["end"][name], stored["start"][name]
        assert {key: logged[f"eval_{name}_{key}"] for key in end} == end  # training's log and its final results
        assert (end["num_pairs"], end["num_label_ties"]) == (pairs, ties)
        assert {key: own[key] for key in COUNTS} == {key: end[key] for key in COUNTS}
        assert found["datasets"][name]["num_pairs"] == pairs
        assert found["datasets"][name]["num_label_ties"] == ties
        assert own["accuracy"]["value"] == end["accuracy"] == found["accuracy_matrix"]["run"][name]
        assert {key: own[key] for key in MEANS} == pytest.approx({key: end[key] for key in MEANS}, abs=1e-5)
        reward = {"mean": end["reward_mean"], "std": end["reward_std"]}
        assert {key: own["reward"][key] for key in reward} == pytest.approx(reward, abs=1e-5)
        accuracies = f"{start['accuracy']:.4f} | {end['accuracy']:.4f}"
        margins = f"{start['margin']:.3f} | {end['margin']:.3f}"
        assert f"| {name} | {accuracies} | {margins} | {end['num_pairs']} | {end['num_ties']} |" in card
        assert f"| {name} | {end['reward_mean']:.4f} | {end['reward_std']:.4f} |" in card
    assert stored["end"]["border"]["num_ties"] == 1
    study = SimpleNamespace(general_sets=["margins", "ranked"], customized_set="dsp_{domain}")
    cell = Cell("crft", "tiny", "hh", 0.0, 0, "plain", "business")
    (line,) = study_lines(study, {cell: {"results": stored}})
    accuracy = {name: own["accuracy"]["value"] for name, own in found["results"]["run"].items()}
    assert line.customized.mean == accuracy["dsp_business"]
    assert line.general.mean == pytest.approx((accuracy["margins"] + accuracy["ranked"]) / 2)


def test_the_margin_enters_the_loss_and_no_probability(judged):
    trainer, found, _ = judged
    data = trainer.eval_dataset["margins"]
    rewards = trainer.compute_rewards(data)
    margins = (rewards[data.better] - rewards[data.worse]).astype(np.float64)
    assert sorted(data.margin.tolist()) == [0.0, 0.5, 1.0, 1.5, 2.5]
    own = found["results"]["run"]["margins"]
    losses = [math.log1p(math.exp(-(margin - wanted))) for margin, wanted in zip(margins, data.margin)]
    assert own["loss"] == pytest.approx(sum(losses) / 5, abs=1e-5)
    p = expit(margins)
    assert own["brier"] == pytest.approx(((1 - p) ** 2).mean(), abs=1e-5)
    bins = np.minimum(((np.maximum(p, 1 - p) - 0.5) * 20).astype(int), 9)
    gaps = [abs((margins[bins == k] > 0).mean() - np.maximum(p, 1 - p)[bins == k].mean()) for k in np.unique(bins)]
    sizes = [(bins == k).sum() for k in np.unique(bins)]
    assert own["ece"] == pytest.approx(np.dot(gaps, sizes) / 5, abs=1e-5)


@pytest.mark.parametrize("name", ["dsp_business", "margins", "ranked"])
def test_the_loss_of_a_test_set_is_the_objective_of_a_step_that_trains_on_it(name, make_trainer, sets, tmp_path):
    specs, counted = sets
    data = load_datasets({name: specs[name]}, "test", cache_dir=str(tmp_path / "cache"))[name]
    pairs = counted[name][0]
    trainer = make_trainer(
        data, eval_rows={name: data}, pairs_per_step=pairs, per_device_train_batch_size=pairs, max_steps=1,
        learning_rate=0.0, eval_on_start=True,
    )  # fmt: skip
    trainer.train()
    step = next(log for log in trainer.state.log_history if "loss" in log)
    before = next(log for log in trainer.state.log_history if f"eval_{name}_loss" in log)
    assert step["loss"] == pytest.approx(before[f"eval_{name}_loss"], abs=1e-5)
    for key in ("accuracy", "margin"):
        assert step[key] == pytest.approx(before[f"eval_{name}_{key}"], abs=1e-5)


def test_the_loss_is_that_of_training_by_hand():
    margins, wanted = np.array([2.0, -1.0, 0.0]), np.array([0.5, 0.0, 1.0], dtype=np.float32)
    rewards = torch.tensor([2.0, 0.0, -1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    better, worse = torch.tensor([0, 2, 4]), torch.tensor([1, 3, 5])
    expected = ranking_loss(rewards, better, worse, torch.tensor(wanted, dtype=torch.float64)).mean().item()
    assert mean_loss(margins, wanted) == pytest.approx(expected, abs=1e-12)
    assert mean_loss(margins) == pytest.approx(ranking_loss(rewards, better, worse).mean().item(), abs=1e-12)
    assert mean_loss(margins, wanted) > mean_loss(margins)
    assert math.isnan(mean_loss(margins[:0]))
