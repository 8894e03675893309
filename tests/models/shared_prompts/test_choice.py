"""The layout that `auto` chooses: the cheaper one, if a trial shows that it is exact."""

from __future__ import annotations

import logging
import re
import shutil

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer, BertConfig, BertForSequenceClassification
from trl.trainer.utils import disable_dropout_in_model

from rm_toolkit.models.shared_prompts import exactness
from rm_toolkit.models.shared_prompts.exactness import sharing_problem, try_sharing


SMALL = {
    "vocab_size": 90,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
HYBRID = {
    "layer_types": ["linear_attention", "full_attention", "full_attention"],
    "head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8, "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}  # fmt: skip
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def build(model_type, **options):
    return AutoModel.from_config(AutoConfig.for_model(model_type, **{**SMALL, **options}))


@pytest.mark.parametrize("model_type", ["llama", "qwen3", "mistral", "olmo2"])
def test_the_trial_finds_full_causal_attention_exact(model_type):
    assert sharing_problem(build(model_type, num_key_value_heads=2, sliding_window=None), 512) is None


@pytest.mark.parametrize(
    ("model_type", "options", "problem"),
    [
        ("bert", NO_DROPOUT, "differ by"),
        ("bert", {}, "dropout"),
        ("falcon", {}, r"layers compute attention on their own, or pass no .* \(hidden states differ by"),
        ("stablelm", {"num_key_value_heads": 2}, "pass no further arguments on to it"),
        ("qwen3_next", {"num_key_value_heads": 2, **HYBRID}, "of the kind 'linear_attention' read a row from left"),
    ],
)
def test_the_trial_finds_others_out(model_type, options, problem):
    assert re.search(problem, sharing_problem(build(model_type, **options), 512))


def test_dropout_that_is_turned_off_in_the_model_is_off_in_the_trial():
    model = build("gpt2")
    assert "dropout" in sharing_problem(model, 512)
    disable_dropout_in_model(model)
    assert sharing_problem(model, 512) is None
    assert "dropout" in sharing_problem(build("gpt_bigcode"), 512)  # it reads dropout from its config in every pass


def test_a_window_wider_than_the_texts_is_no_window():
    assert sharing_problem(build("mistral", num_key_value_heads=2, sliding_window=512), 512) is None


def test_the_trial_leaves_random_state_and_model_alone():
    model = build("llama")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.randn(2)
    torch.manual_seed(3)
    sharing_problem(model, 512)
    assert torch.randn(2).equal(expected)
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert model.config._attn_implementation == "sdpa"


@pytest.fixture
def shared_prompts(rows):
    long = "Mind the copper lantern and answer in the tone of the harbour market at noon. "
    return [{**row, "prompt": f"## Human:\n{long}{row['prompt']}"} for row in rows.ranked(5)]


def test_auto_shares_where_it_pays(make_trainer, shared_prompts):
    assert make_trainer(shared_prompts, max_length=128).batch_layout == "shared"


def test_all_processes_run_plain_where_the_trial_of_one_of_them_fails(make_trainer, shared_prompts, monkeypatch):
    others = ["hidden states differ by 1.0e+00 in a trial"]
    monkeypatch.setattr("rm_toolkit.models.shared_prompts.choice.gather_object", lambda mine: [*mine, *others])
    trainer = make_trainer(shared_prompts, max_length=128)
    assert (trainer.batch_layout, trainer.attention) == ("plain", "sdpa of transformers")
    with pytest.raises(ValueError, match=r"not exact for this model: hidden states differ by 1\.0e\+00"):
        make_trainer(shared_prompts, max_length=128, batch_layout="shared")


def test_auto_runs_plain_where_nothing_is_saved(make_trainer):
    row = {"prompt": "", "chosen": "River stone.", "rejected": "Stone river."}
    assert make_trainer([row] * 4, per_device_train_batch_size=1).batch_layout == "plain"


@pytest.fixture
def encoder(base_model):
    tokenizer = AutoTokenizer.from_pretrained(base_model())
    config = BertConfig(**{**SMALL, **NO_DROPOUT, "vocab_size": len(tokenizer), "num_labels": 1})
    return BertForSequenceClassification(config)


def test_auto_runs_encoders_plain_and_says_so_in_one_line(
    make_trainer, encoder, base_model, shared_prompts, caplog, monkeypatch
):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    trainer = make_trainer(
        shared_prompts, encoder, processing_class=AutoTokenizer.from_pretrained(base_model()), max_length=128
    )
    assert trainer.batch_layout == "plain"
    lines = [record.getMessage() for record in caplog.records if "batch_layout" in record.getMessage()]
    assert len(lines) == 1
    assert "not exact for this model: hidden states differ" in lines[0]


def test_shared_is_refused_where_it_is_not_exact(make_trainer, encoder, base_model, shared_prompts):
    with pytest.raises(ValueError, match="`batch_layout` is 'shared', but that is not exact for this model"):
        make_trainer(
            shared_prompts,
            encoder,
            processing_class=AutoTokenizer.from_pretrained(base_model()),
            batch_layout="shared",
        )


@pytest.mark.parametrize("pooling_type", ["average", "max"])
def test_pooling_over_all_tokens_shares_too(make_trainer, shared_prompts, pooling_type):
    assert make_trainer(shared_prompts, pooling_type=pooling_type, max_length=128).batch_layout == "shared"


def test_a_trial_for_pooling_over_all_tokens_looks_at_all_of_them(monkeypatch):
    """Hidden states that are wrong everywhere but at the end of a text matter to a mean alone."""
    backbone, together = build("llama"), exactness._together

    def wrong_inside(model, row, texts, read, direction):
        found = together(model, row, texts, read, direction)
        if read[0] == 0:
            found.hidden[0] += 0.1
        return found

    monkeypatch.setattr(exactness, "_together", wrong_inside)
    assert try_sharing(backbone, 128).problem is None
    assert "hidden states differ" in try_sharing(backbone, 128, every_token=True).problem


def test_the_saved_config_knows_nothing_of_the_layout(make_trainer, shared_prompts, tmp_path):
    trainer = make_trainer(shared_prompts, max_length=128, batch_layout="shared")
    trainer.save_model(str(tmp_path / "saved"))
    assert "rm_toolkit" not in (tmp_path / "saved" / "config.json").read_text()


def test_the_same_seed_gives_the_same_loss_curve_and_resume_holds(make_trainer, shared_prompts, tmp_path):
    def run(**options):
        config = {"batch_layout": "shared", "max_length": 128, "max_steps": 4, "max_tokens_per_batch": 256}
        trainer = make_trainer(shared_prompts * 2, **{**config, **options})
        trainer.train(resume_from_checkpoint=options.get("resume_from_checkpoint"))
        return [log["loss"] for log in trainer.state.log_history if "loss" in log]

    first = run(save_strategy="steps", save_steps=2, output_dir=str(tmp_path / "a"))
    assert len(first) == 4
    assert run() == first
    shutil.rmtree(tmp_path / "a" / "checkpoint-4")
    assert run(resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-2"), output_dir=str(tmp_path / "a")) == first


def test_a_token_budget_too_small_for_a_pair_is_refused(make_trainer, shared_prompts):
    with pytest.raises(ValueError, match="`max_tokens_per_batch` is 100; a pair of two texts"):
        make_trainer(shared_prompts, max_length=128, max_tokens_per_batch=100)
