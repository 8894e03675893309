"""One optimizer step: its loss and gradients, compared with TRL, with stock models and with one big batch."""

from __future__ import annotations

import random

import pytest
import torch
from datasets import Dataset
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl import RewardConfig, RewardTrainer

from rm_toolkit.errors import InputError
from rm_toolkit.models.tokenizer import PAD_TOKEN
from rm_toolkit.training.config import RewardModelConfig
from rm_toolkit.training.trainer import RewardModelTrainer


def classifier_gradients(gradients):
    """Gradients under the stock class's parameter names."""
    return {name.removeprefix("classifier."): value for name, value in gradients.items() if "lm_head." not in name}


# ---- TRL's RewardTrainer on the same rows ----


@pytest.fixture
def trl_trainer(tmp_path, base_model):
    """TRL's own trainer on a saved reward model, with raw strings and the base's tokenizer."""

    def make(folder, rows, **config):
        tokenizer = AutoTokenizer.from_pretrained(base_model())
        tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})  # its default, EOS, would move the pooled token
        args = RewardConfig(
            str(tmp_path / "trl"),
            use_cpu=True,
            bf16=False,
            activation_checkpointing=False,
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
            max_length=None,
            per_device_train_batch_size=len(rows),
            lr_scheduler_type="constant",
            **config,
        )
        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
        return RewardTrainer(model, args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)

    return make


@pytest.mark.parametrize("with_margin", [False, True])
@pytest.mark.parametrize("centering", [None, 0.1])
def test_loss_and_gradients_equal_trl(
    make_trainer, trl_trainer, rows, step_gradients, assert_same_gradients, tmp_path, centering, with_margin
):
    columns = {"margin": lambda number: number / 4} if with_margin else {}
    pairs = rows.pairs(7, **columns)
    options = {"pooling_type": "eos", "max_length": 256, "center_rewards_coefficient": centering}
    # Ours takes the seven pairs in micro-batches of two, TRL all at once.
    ours = make_trainer(pairs, pairs_per_step=8, per_device_train_batch_size=2, **options)
    ours.save_model(str(tmp_path / "rm"))
    loss, gradients = step_gradients(ours)

    trl = trl_trainer(tmp_path / "rm", pairs, center_rewards_coefficient=centering)
    trl.model.train()
    expected = trl.compute_loss(trl.model, next(iter(trl.get_train_dataloader())))
    expected.backward()
    assert loss == pytest.approx(expected.item(), abs=1e-5)
    assert_same_gradients(
        classifier_gradients(gradients), {name: value.grad for name, value in trl.model.named_parameters()}
    )


def test_weights_after_several_steps_equal_trl(make_trainer, trl_trainer, rows, tmp_path):
    pairs = rows.pairs(6, margin=lambda number: 0.5)
    # Every step sees all rows, so the order does not matter.
    options = {"optim": "sgd", "learning_rate": 0.2, "num_train_epochs": 4, "center_rewards_coefficient": 0.05}
    ours = make_trainer(
        pairs, pairs_per_step=6, per_device_train_batch_size=3, pooling_type="eos", max_length=256, **options
    )
    ours.save_model(str(tmp_path / "rm"))
    trl = trl_trainer(tmp_path / "rm", pairs, **options)
    before = ours.model.base_classifier.score.weight.detach().clone()
    assert ours.train().global_step == trl.train().global_step == 4
    assert (ours.model.base_classifier.score.weight - before).abs().max() > 1e-2
    expected = trl.model.state_dict()
    for name, value in ours.model.base_classifier.state_dict().items():
        torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=1e-5, msg=name)


# ---- unequal micro-batches ----


@pytest.mark.parametrize("group_by_prompt", [True, False])
@pytest.mark.parametrize("pair_weighting", ["pair", "prompt"])
def test_accumulated_gradients_equal_one_big_batch(
    make_trainer, rows, step_gradients, assert_same_gradients, pair_weighting, group_by_prompt
):
    ranked = rows.ranked(6)
    found = []
    # 28 pairs in micro-batches of 1, 3, 5 and 28; the last one may be smaller
    for size in (28, 1, 3, 5):
        trainer = make_trainer(
            ranked,
            per_device_train_batch_size=size,
            pairs_per_step=-(-28 // size) * size,
            pair_weighting=pair_weighting,
            group_by_prompt=group_by_prompt,
            lm_loss_coef=0.3,
            lm_score_threshold=0.4,
            center_rewards_coefficient=0.1,
        )
        assert len(trainer.train_dataset) == 28
        found.append(step_gradients(trainer))
    for loss, gradients in found[1:]:
        assert loss == pytest.approx(found[0][0], abs=1e-5)
        assert_same_gradients(gradients, found[0][1])


def reward_by_hand(model, tokenizer, text):
    ids = tokenizer(text, return_tensors="pt", truncation=True)["input_ids"]
    return model(input_ids=ids).logits[0, 0]


@pytest.mark.parametrize("pair_weighting", ["pair", "prompt"])
def test_every_pair_or_every_row_weighs_the_same(
    make_trainer, rows, step_gradients, assert_same_gradients, tmp_path, pair_weighting
):
    """Compared with the definition, text by text with the stock class."""
    tied = [{**row, "scores": [1.0] * len(row["scores"])} for row in rows.ranked(2, seed=1)]
    ranked = [tied[0], *rows.ranked(4, sizes=(3, 5)), tied[1]]
    trainer = make_trainer(ranked, pair_weighting=pair_weighting, per_device_train_batch_size=5, pairs_per_step=30)
    trainer.save_model(str(tmp_path / "rm"))
    loss, gradients = step_gradients(trainer)

    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "rm")
    losses_of_rows = []
    for row in ranked[1:-1]:
        rewards = [reward_by_hand(model, tokenizer, row["prompt"] + text) for text in row["completions"]]
        scores = row["scores"]
        losses_of_rows.append(
            torch.stack(
                [
                    F.softplus(-(rewards[i] - rewards[j]))
                    for i in range(len(scores))
                    for j in range(len(scores))
                    if scores[i] > scores[j]
                ]
            )
        )
    assert [len(losses) for losses in losses_of_rows] == [2, 9, 2, 9]  # one tie per row
    if pair_weighting == "pair":
        expected = torch.cat(losses_of_rows).mean()
    else:
        expected = (
            torch.stack([losses.mean() for losses in losses_of_rows]).sum() / 6
        )  # as in the original, tied rows count, too
    expected.backward()
    assert loss == pytest.approx(expected.item(), abs=1e-5)
    assert_same_gradients(
        classifier_gradients(gradients), {name: value.grad for name, value in model.named_parameters()}
    )


def test_pair_and_prompt_weighting_differ_on_unequal_rows(make_trainer, rows, step_gradients):
    losses = {
        weighting: step_gradients(make_trainer(rows.ranked(4), pairs_per_step=40, pair_weighting=weighting))[0]
        for weighting in ("pair", "prompt")
    }
    assert abs(losses["pair"] - losses["prompt"]) > 1e-3


# ---- the LM loss ----


def lm_loss_by_hand(model, tokenizer, texts, loss_on):
    """Mean over texts of the mean token cross-entropy, EOS included, with the stock causal LM."""
    losses = []
    for prompt, completion in texts:
        ids = tokenizer(prompt + completion, return_tensors="pt")["input_ids"]
        if ids[0, -1] != tokenizer.eos_token_id:
            ids = torch.cat([ids, torch.tensor([[tokenizer.eos_token_id]])], dim=1)
        labels = ids.clone()
        if loss_on == "completion":
            labels[:, : tokenizer(prompt, return_tensors="pt")["input_ids"].shape[1]] = -100
        losses.append(model(input_ids=ids, labels=labels).loss)
    return torch.stack(losses).mean()


@pytest.mark.parametrize("pooling_type, loss_on", [("last", "text"), ("eos", "text"), ("last", "completion")])
@pytest.mark.parametrize("architecture, tied", [("llama", False), ("llama", True), ("qwen3", True)])
def test_lm_loss_and_gradients_equal_the_stock_causal_lm(
    make_trainer,
    base_model,
    rows,
    step_gradients,
    assert_same_gradients,
    architecture,
    tied,
    pooling_type,
    loss_on,
):
    base = base_model(architecture, tied=tied)
    ranked = [
        # above 0.85 of the best: the first two of the first row, the first of the second (which is in two rows)
        {"prompt": "river\n", "completions": ["stone lantern", "window garden letter", "x"], "scores": [9.0, 10.0, 8]},
        {"prompt": "copper\n", "completions": ["market", "shadow bridge"], "scores": [0.0, -1.0]},
        {"prompt": "copper\n", "completions": ["market", "orange"], "scores": [1.0, 0.5]},
        # no pair; both texts are best, and count if rows are weighed as in the original
        {"prompt": "silver\n", "completions": ["mirror", "winter garden"], "scores": [1.0, 1.0]},
    ]
    pair_weighting = "prompt" if loss_on == "completion" else "pair"
    texts = [("river\n", "stone lantern"), ("river\n", "window garden letter"), ("copper\n", "market")]
    if pair_weighting == "prompt":
        texts += [("silver\n", "mirror"), ("silver\n", "winter garden")]
    with_lm, without = (
        step_gradients(
            make_trainer(
                ranked,
                base,
                pooling_type=pooling_type,
                lm_loss_coef=coefficient,
                lm_loss_on=loss_on,
                pair_weighting=pair_weighting,
                pairs_per_step=6,
                per_device_train_batch_size=1,
                max_length=256,
            )
        )
        for coefficient in (2.0, 0.0)
    )
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    # The new pad token has a row, too, which gets its share of the probability like any token.
    trainer = make_trainer(ranked, base, pooling_type=pooling_type, lm_loss_coef=1.0)
    weights = {
        name.removeprefix("classifier.").replace("lm_head.weight", "lm_head.weight"): value
        for name, value in trainer.model.state_dict().items()
    }
    model.resize_token_embeddings(len(weights["model.embed_tokens.weight"]), mean_resizing=False)
    model.load_state_dict(weights, strict=False)
    expected = lm_loss_by_hand(model, trainer.processing_class, texts, loss_on)
    expected.backward()

    assert (with_lm[0] - without[0]) / 2 == pytest.approx(expected.item(), abs=1e-5)
    found = {
        name.removeprefix("classifier."): (value - without[1].get(name, 0.0)) / 2 for name, value in with_lm[1].items()
    }
    found.pop("score.weight")
    found = {name: value for name, value in found.items() if not (tied and name.startswith("lm_head."))}
    assert_same_gradients(found, {name: value.grad for name, value in model.named_parameters()})


def test_coefficient_zero_computes_no_vocabulary_logits(make_trainer, rows, monkeypatch):
    widths = []
    linear = F.linear

    def watched(inputs, weight, bias=None):
        widths.append(weight.shape[0])
        return linear(inputs, weight, bias)

    monkeypatch.setattr(F, "linear", watched)
    for coefficient in (0.0, 0.1):
        widths.clear()
        trainer = make_trainer(rows.pairs(4), lm_loss_coef=coefficient, num_train_epochs=1)
        assert (trainer.model.lm_head is None) == (coefficient == 0)
        trainer.train()
        vocabulary = trainer.model.get_input_embeddings().num_embeddings
        assert 1 in widths and (vocabulary in widths) == (coefficient > 0)


def test_lm_loss_of_a_model_that_was_built_without_its_head_is_computed_all_the_same(
    make_trainer, base_model, rows, step_gradients
):
    from rm_toolkit.models.reward_model import RewardModel

    built = RewardModel.from_pretrained(base_model())
    assert built.lm_head is None
    tokenizer = AutoTokenizer.from_pretrained(base_model())
    options = {"lm_loss_coef": 0.5, "processing_class": tokenizer}
    expected = step_gradients(make_trainer(rows.pairs(4), base_model(), **options))[0]
    assert step_gradients(make_trainer(rows.pairs(4), built, **options))[0] == pytest.approx(expected, abs=1e-5)
    # Conversely, an existing head is neither computed nor trained.
    options["lm_loss_coef"] = 0.0
    expected, gradients = step_gradients(make_trainer(rows.pairs(4), base_model(), **options))
    found = step_gradients(make_trainer(rows.pairs(4), built, **options))
    assert found[0] == pytest.approx(expected, abs=1e-5) and found[1].keys() == gradients.keys()


def test_losses_are_logged_apart_and_add_up(make_trainer, rows):
    trainer = make_trainer(
        rows.ranked(6),
        lm_loss_coef=0.3,
        pairs_per_step=8,
        per_device_train_batch_size=2,
        logging_steps=2,
        num_train_epochs=2,
    )
    trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert len(logs) == 4
    for log in logs:
        assert log["loss"] == pytest.approx(log["rank_loss"] + 0.3 * log["lm_loss"], rel=1e-4)
    assert logs[-1]["lm_loss"] < logs[0]["lm_loss"]
    assert 0 <= logs[0]["accuracy"] <= 1


# ---- a run as a whole ----


def test_the_same_seed_gives_the_same_run_and_another_seed_another(make_trainer, rows):
    curves = []
    for seed, noise in ((1, 0), (1, 99), (2, 0)):
        torch.manual_seed(noise), random.seed(noise)
        trainer = make_trainer(rows.pairs(8), seed=seed, lm_loss_coef=0.1)
        trainer.train()
        curves.append([log["loss"] for log in trainer.state.log_history if "loss" in log])
    assert curves[0] == curves[1] != curves[2]


def test_training_raises_the_accuracy_on_what_was_trained(make_trainer, rows):
    pairs = rows.pairs(24)  # every rejected text ends in "No."
    trainer = make_trainer(pairs, eval_rows={"seen": pairs}, learning_rate=5e-3, num_train_epochs=4)
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_seen_accuracy"] > 0.9 > before["eval_seen_accuracy"]
    assert after["eval_seen_loss"] < before["eval_seen_loss"] and after["eval_seen_margin"] > 0.5


def test_activation_checkpointing_changes_nothing(make_trainer, rows, step_gradients, assert_same_gradients):
    expected = step_gradients(make_trainer(rows.pairs(5), lm_loss_coef=0.1))
    trainer = make_trainer(rows.pairs(5), lm_loss_coef=0.1)
    trainer.model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    assert any(getattr(module, "gradient_checkpointing", False) for module in trainer.model.modules())
    found = step_gradients(trainer)
    assert found[0] == pytest.approx(expected[0], abs=1e-6)
    assert_same_gradients(found[1], expected[1])


def test_a_step_of_pairs_that_do_not_divide_is_refused(make_trainer, rows):
    with pytest.raises(ValueError, match=r"`pairs_per_step` is 6, which 1 process\(es\) of 4 pairs"):
        make_trainer(rows.pairs(4), pairs_per_step=6, per_device_train_batch_size=4)


def test_a_data_set_of_ties_alone_is_refused(make_trainer):
    ties = [{"prompt": "a ", "completions": ["x", "y"], "scores": [1.0, 1.0]}]
    with pytest.raises(ValueError, match=r"dataset 'train' has 1 rows but not one pair with a preference \(1 ties\)"):
        make_trainer(ties)


def test_cut_texts_are_reported_once_a_data_set(make_trainer, rows, capsys):
    pairs = rows.pairs(4)
    for number, row in enumerate(pairs[:2]):
        row["chosen"] = f"river {number} " * 60
    trainer = make_trainer(pairs, eval_rows={"short": rows.pairs(2, seed=1)}, max_length=128, eval_on_start=True)
    trainer.train()
    assert trainer.train_dataset.num_truncated == 2
    cut = trainer.train_dataset.num_truncated_tokens
    found = [line for line in capsys.readouterr().out.splitlines() if "cut" in line]
    assert found == [
        f"dataset 'train': 2 of 8 texts are longer than `max_length` 128 and were cut; {cut} tokens at their beginning "
        "are not read"
    ]


def test_metrics_of_batches_are_refused_because_they_would_never_be_called(base_model, rows, tmp_path):
    args = RewardModelConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False)
    data = Dataset.from_list(rows.pairs(2))
    with pytest.raises(InputError, match="`compute_metrics` is not used"):
        RewardModelTrainer(base_model(), args, data, compute_metrics=lambda prediction: {})
