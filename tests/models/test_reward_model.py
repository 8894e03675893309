"""Rewards: equal to the stock classes', whatever else is in the batch; and where the head comes from."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    CohereConfig,
    CohereForCausalLM,
)

from rm_toolkit.batches.tokenization import tokenize_preferences
from rm_toolkit.errors import InputError
from rm_toolkit.models.reward_model import RewardModel, initialize_head
from rm_toolkit.models.tokenizer import load_tokenizer


MODELS = [("llama", False), ("llama", True), ("qwen3", False), ("qwen3", True)]


def rewards_of(trainer, rows):
    """Rewards of (chosen, rejected) of each row, `[2, num_rows]`."""
    data = tokenize_preferences(
        Dataset.from_list(rows), trainer.processing_class, max_length=trainer.args.max_length, show_progress=False
    )
    rewards = trainer.compute_rewards(data)
    return np.stack([rewards[data.better], rewards[data.worse]])


def stock_rewards(folder, texts, padding_side="right"):
    """Rewards that anybody gets from the folder: stock classes, one padded batch."""
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side=padding_side)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    assert type(model).__module__.startswith("transformers.")
    with torch.no_grad():
        return model(**tokenizer(texts, truncation=True, padding=True, return_tensors="pt")).logits[:, 0].numpy()


# ---- the same reward as the stock class ----


@pytest.mark.parametrize("pooling_type", ["last", "eos"])
@pytest.mark.parametrize("architecture, tied", MODELS)
def test_rewards_equal_the_stock_class(make_trainer, base_model, rows, tmp_path, architecture, tied, pooling_type):
    pairs = rows.pairs(8)
    pairs[3]["chosen"] = "River stone. " * 40  # over-long
    trainer = make_trainer(pairs, base_model(architecture, tied=tied), pooling_type=pooling_type)
    found = rewards_of(trainer, pairs)
    assert np.ptp(found) > 0.1, "all rewards are alike: nothing is tested"
    trainer.save_model(str(tmp_path / "rm"))
    for padding_side in ("right", "left"):
        for k, column in enumerate(("chosen", "rejected")):
            texts = [row["prompt"] + row[column] for row in pairs]
            expected = stock_rewards(tmp_path / "rm", texts, padding_side)
            np.testing.assert_allclose(found[k], expected, atol=1e-5, err_msg=f"padding on the {padding_side}")


def test_last_reads_the_last_token_and_eos_the_eos(make_trainer, rows):
    pairs = rows.pairs(3)
    for pooling_type in ("last", "eos"):
        trainer = make_trainer(pairs, pooling_type=pooling_type)
        tokenizer, model = trainer.processing_class, trainer.model
        ids = tokenizer(pairs[0]["prompt"] + pairs[0]["chosen"], return_tensors="pt")["input_ids"]
        assert (ids[0, -1] == tokenizer.eos_token_id) == (pooling_type == "eos")
        with torch.no_grad():
            hidden = model.backbone(input_ids=ids).last_hidden_state[0, -1]
        by_hand = (hidden.double() @ model.base_classifier.score.weight[0].double()).item()
        assert rewards_of(trainer, pairs)[0, 0] == pytest.approx(by_hand, abs=1e-5)


@pytest.mark.parametrize("padding_side", ["right", "left"])
@pytest.mark.parametrize("pooling_type", ["average", "max"])
def test_average_and_max_never_let_padding_enter(make_trainer, rows, pooling_type, padding_side):
    pairs = rows.pairs(6)
    trainer = make_trainer(
        pairs,
        pooling_type=pooling_type,
        padding_side=padding_side,
        pad_to_multiple_of=32,
        per_device_eval_batch_size=8,
    )
    with torch.no_grad():  # the pad token must not hide behind a small embedding; all hidden states are negative
        trainer.model.get_input_embeddings().weight[trainer.processing_class.pad_token_id] = 50.0
        trainer.model.backbone.norm.weight.neg_()
    found = rewards_of(trainer, pairs)
    for number, row in enumerate(pairs):
        ids = trainer.processing_class(row["prompt"] + row["chosen"], return_tensors="pt")["input_ids"]
        with torch.no_grad():
            hidden = trainer.model.backbone(input_ids=ids).last_hidden_state[0]
        pooled = hidden.mean(0) if pooling_type == "average" else hidden.amax(0)
        by_hand = (pooled @ trainer.model.base_classifier.score.weight[0]).item()
        assert found[0, number] == pytest.approx(by_hand, abs=1e-5)


def test_a_stock_classifier_as_trl_users_pass_it(make_trainer, base_model, rows, tmp_path):
    trainer = make_trainer(rows.pairs(4))
    expected = rewards_of(trainer, rows.pairs(4))
    trainer.save_model(str(tmp_path / "rm"))
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm", dtype=torch.float32)
    trainer = make_trainer(
        rows.pairs(4), model, lm_loss_coef=0.1, processing_class=load_tokenizer(str(tmp_path / "rm"))
    )
    np.testing.assert_allclose(rewards_of(trainer, rows.pairs(4)), expected, atol=1e-6)
    assert trainer.model.lm_head is not None


# ---- what must not matter ----


@pytest.mark.parametrize("pooling_type", ["last", "eos", "average", "max"])
@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_rewards_do_not_depend_on_the_batch(make_trainer, base_model, rows, architecture, pooling_type):
    pairs = rows.pairs(9)
    expected = None
    for padding_side in ("right", "left"):
        for batch_size in (1, 3, 64):
            for multiple in (None, 16):
                trainer = make_trainer(
                    pairs,
                    base_model(architecture),
                    pooling_type=pooling_type,
                    padding_side=padding_side,
                    per_device_eval_batch_size=batch_size,
                    pad_to_multiple_of=multiple,
                )
                found = rewards_of(trainer, pairs)
                expected = found if expected is None else expected
                np.testing.assert_allclose(found, expected, atol=1e-5)


def test_swapping_chosen_and_rejected_swaps_their_rewards(make_trainer, rows):
    pairs = rows.pairs(6)
    swapped = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in pairs]
    trainer = make_trainer(pairs)
    np.testing.assert_allclose(rewards_of(trainer, swapped), rewards_of(trainer, pairs)[::-1], atol=1e-6)


# ---- where the head comes from ----


def test_a_fresh_head_depends_on_the_seed_alone(base_model):
    heads = []
    for seed, noise in ((1, 0), (1, 5), (2, 0)):
        torch.manual_seed(noise)
        heads.append(RewardModel.from_pretrained(base_model(), seed=seed).base_classifier.score)
    assert torch.equal(heads[0].weight, heads[1].weight)
    assert not torch.equal(heads[0].weight, heads[2].weight)
    assert heads[0].bias is None and heads[0].weight.shape == (1, 16)


def test_the_trainer_seeds_the_head(make_trainer, rows):
    head = [make_trainer(rows.pairs(2), seed=seed).model.base_classifier.score.weight for seed in (3, 3, 4)]
    assert torch.equal(head[0], head[1]) and not torch.equal(head[0], head[2])


def test_the_head_is_drawn_with_the_stated_width():
    head = torch.nn.Linear(399, 1)
    initialize_head(head, seed=0)
    assert head.weight.std().item() == pytest.approx(1 / 20, rel=0.15)  # 1 / sqrt(399 + 1)
    assert head.bias.item() == 0 and not head.bias.requires_grad


def test_a_saved_head_is_read_and_not_drawn_again(make_trainer, rows, tmp_path):
    trainer = make_trainer(rows.pairs(2), seed=3)
    with torch.no_grad():
        trainer.model.base_classifier.score.weight.fill_(0.25)
    trainer.save_model(str(tmp_path / "rm"))
    again = make_trainer(rows.pairs(2), str(tmp_path / "rm"), seed=8, require_head=True)
    assert again.model.base_classifier.score.weight.unique().tolist() == [0.25]


def test_a_stage_that_continues_refuses_a_base_without_a_head(make_trainer, base_model, rows):
    with pytest.raises(InputError, match=r"has no reward head \(`score.weight`\).*recipes/grft.py"):
        make_trainer(rows.pairs(2), base_model(), require_head=True)


def test_a_reward_model_whose_head_was_lost_is_refused(make_trainer, rows, tmp_path):
    """TRL and others silently give such a checkpoint a random head."""
    make_trainer(rows.pairs(2)).save_model(str(tmp_path / "rm"))
    weights = load_file(tmp_path / "rm" / "model.safetensors")
    del weights["score.weight"]
    save_file(weights, tmp_path / "rm" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="has no reward head"):
        RewardModel.from_pretrained(str(tmp_path / "rm"), require_head=True)


# ---- refusals ----


def test_a_classifier_with_several_labels_is_refused(base_model, tmp_path, make_trainer, rows):
    config = AutoConfig.from_pretrained(base_model(), num_labels=3, pad_token_id=0)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "three")
    with pytest.raises(
        InputError,
        match=r"is a classifier with `num_labels` 3 \(`id2label` of its config\.json\); a reward model has exactly 1",
    ):
        RewardModel.from_pretrained(str(tmp_path / "three"))
    with pytest.raises(InputError, match="the model has `num_labels` 3"):
        make_trainer(rows.pairs(2), AutoModelForSequenceClassification.from_pretrained(tmp_path / "three"))


def test_an_incomplete_model_is_refused_by_the_first_missing_weight(base_model, tmp_path):
    shutil.copytree(base_model(), tmp_path / "base")
    weights = load_file(tmp_path / "base" / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lacks 1 weights .*first: 'model.layers.1.mlp.up_proj.weight'"):
        RewardModel.from_pretrained(str(tmp_path / "base"))


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(InputError, match="is not a model that transformers can load"):
        RewardModel.from_pretrained(str(tmp_path))


def test_a_language_model_without_a_stock_classifier_is_refused_truthfully(tmp_path):
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    CohereForCausalLM(CohereConfig(vocab_size=40, **size)).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"'cohere' model: .*\(CohereForCausalLM\) but no sequence classifier of it"):
        RewardModel.from_pretrained(str(tmp_path))


def test_weights_load_in_fp32_whatever_they_were_saved_in(base_model, tmp_path):
    shutil.copytree(base_model(), tmp_path / "base")
    weights = load_file(tmp_path / "base" / "model.safetensors")
    half = {name: value.bfloat16() for name, value in weights.items()}
    save_file(half, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    config = AutoConfig.from_pretrained(tmp_path / "base")
    config.dtype = "bfloat16"
    config.save_pretrained(tmp_path / "base")
    model = RewardModel.from_pretrained(str(tmp_path / "base"), with_lm_head=True)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
