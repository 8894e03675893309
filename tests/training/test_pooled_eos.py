"""`average` and `max` pool `<s> text </s>`, as in the original work; a model trained without EOS stays without."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from rm_toolkit import RewardScorer
from rm_toolkit.errors import InputError
from rm_toolkit.merging.merge import merge_models
from rm_toolkit.models.reward_model import RewardModel
from rm_toolkit.models.settings import RewardModelSettings, load_settings
from rm_toolkit.models.tokenizer import load_tokenizer


def as_of_0_2_1(folder):
    """Removes the field, and the EOS that the tokenizer appends."""
    settings = json.loads((folder / "rm_toolkit.json").read_text())
    del settings["pools_eos"]
    (folder / "rm_toolkit.json").write_text(json.dumps(settings))
    text = json.loads((folder / "tokenizer.json").read_text())
    single = text["post_processor"]["single"]
    text["post_processor"]["single"] = [part for part in single if part.get("SpecialToken", {}).get("id") != "</s>"]
    (folder / "tokenizer.json").write_text(json.dumps(text))


@pytest.fixture
def trained(make_trainer, rows, tmp_path):
    """A folder with an `average` model after one step, with or without EOS."""

    def train(name, model=None, *, pools_eos=True, **config):
        trainer = make_trainer(rows.pairs(4), model, pooling_type="average", max_steps=1, **config)
        trainer.train()
        trainer.save_model(str(tmp_path / name))
        if not pools_eos:
            as_of_0_2_1(tmp_path / name)
        return tmp_path / name

    return train


@pytest.mark.parametrize("pooling_type", ["average", "max"])
def test_the_reward_is_that_of_bos_text_and_eos_pooled(make_trainer, rows, tmp_path, pooling_type):
    trainer = make_trainer(rows.pairs(4), pooling_type=pooling_type)
    trainer.save_model(str(tmp_path / "rm"))
    prompt, completion = rows.pairs(1)[0]["prompt"], rows.pairs(1)[0]["chosen"]
    tokenizer, model = load_tokenizer(str(tmp_path / "rm")), trainer.model
    text = tokenizer(prompt + completion, add_special_tokens=False)["input_ids"]
    ids = torch.tensor([[tokenizer.bos_token_id, *text, tokenizer.eos_token_id]])
    with torch.no_grad():
        hidden = model.backbone(input_ids=ids).last_hidden_state[0]
    pooled = hidden.mean(0) if pooling_type == "average" else hidden.amax(0)
    by_hand = (pooled.double() @ model.base_classifier.score.weight[0].double()).item()
    assert RewardScorer(tmp_path / "rm", device="cpu").score([prompt], [completion])[0] == pytest.approx(
        by_hand, abs=1e-5
    )
    assert json.loads((tmp_path / "rm" / "rm_toolkit.json").read_text())["pools_eos"] is True


@pytest.mark.parametrize(
    "options", [{"pooling_type": "last"}, {"pooling_type": "eos"}, {"pooling_type": "average", "data_format": "chat"}]
)
def test_other_readings_say_that_eos_is_not_pooled(make_trainer, rows, base_model, options):
    pairs = rows.pairs(2)
    if options.get("data_format") == "chat":
        roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
        pairs = [{name: [{"role": role, "content": row[name]}] for name, role in roles.items()} for row in pairs]
    trainer = make_trainer(pairs, base_model("qwen3"), **options)
    assert trainer.model.settings.pools_eos is False


def test_an_encoder_keeps_the_frame_of_its_own_tokenizer(make_trainer, rows, base_encoder):
    trainer = make_trainer(rows.pairs(2), base_encoder("bert"), pooling_type="average")
    assert trainer.model.settings.pools_eos is False


def test_a_model_that_learned_without_eos_goes_on_without(trained, rows, make_trainer, tmp_path):
    folder = trained("old", pools_eos=False)
    assert load_settings(str(folder)).pools_eos is False
    rewards = RewardScorer(folder, device="cpu").score(["A river?"] * 2, ["Stone.", "Copper and salt."])
    for given in (str(folder), RewardModel.from_pretrained(str(folder))):
        trainer = make_trainer(rows.pairs(4), given, pooling_type="average", require_head=True)
        assert trainer.model.settings.pools_eos is False
        trainer.save_model(str(tmp_path / "again"))
        found = RewardScorer(tmp_path / "again", device="cpu").score(["A river?"] * 2, ["Stone.", "Copper and salt."])
        assert found == pytest.approx(rewards, abs=1e-6)
    # A different pooling is learned as by a new model.
    assert make_trainer(rows.pairs(4), str(folder), pooling_type="max").model.settings.pools_eos is True
    stated = RewardModelSettings(pooling_type="average", max_length=48, pools_eos=False)
    assert make_trainer(rows.pairs(4), pooling_type="average", settings=stated).model.settings.pools_eos is False


def test_a_run_that_was_begun_without_eos_is_resumed_without(make_trainer, rows, tmp_path):
    options = {"pooling_type": "average", "max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    old = RewardModelSettings(pooling_type="average", pools_eos=False)
    trainer = make_trainer(rows.pairs(8), settings=old, **options)
    trainer.train()
    whole = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    checkpoint = Path(trainer.args.output_dir, "checkpoint-1")
    shutil.rmtree(checkpoint.with_name("checkpoint-2"))
    for wanted in (str(checkpoint), "auto"):
        resumed = make_trainer(rows.pairs(8), resume_from_checkpoint=wanted, **options)
        assert resumed.model.settings.pools_eos is False
    resumed = make_trainer(rows.pairs(8), resume_from_checkpoint=str(checkpoint), **options)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert [log["loss"] for log in resumed.state.log_history if "loss" in log] == whole
    shutil.rmtree(checkpoint.with_name("checkpoint-2"))
    # In Python, the trainer does not know yet what it will resume from, so this is refused rather than read
    # differently.
    with pytest.raises(InputError, match=r"other settings \(pools_eos\)"):
        make_trainer(rows.pairs(8), **options).train(resume_from_checkpoint=str(checkpoint))


def test_models_that_read_otherwise_are_not_merged(trained, tmp_path):
    new, old = trained("new"), trained("old", pools_eos=False)
    with pytest.raises(InputError, match="their `pools_eos` differs: 'True' and 'False'"):
        merge_models(new, [old], [0.5], tmp_path / "merged")


def test_a_next_stage_that_pools_otherwise_says_so(make_trainer, rows, tmp_path, capfd):
    make_trainer(rows.pairs(4), pooling_type="average").save_model(str(tmp_path / "rm"))
    capfd.readouterr()
    make_trainer(rows.pairs(4), str(tmp_path / "rm"), pooling_type="average")
    assert "was trained with" not in "".join(capfd.readouterr())
    make_trainer(rows.pairs(4), str(tmp_path / "rm"), pooling_type="last")
    told = " ".join("".join(capfd.readouterr()).split())
    assert "was trained with `pooling_type: average`, and this run uses 'last'. Set `pooling_type: average`" in told
