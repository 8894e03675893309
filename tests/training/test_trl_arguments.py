"""Arguments that users of TRL's trainer pass are used, or refused with a message before anything is trained."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    TrainingArguments,
)

from rm_toolkit import RewardModelConfig, RewardModelTrainer, RewardScorer
from rm_toolkit.errors import InputError
from rm_toolkit.models.adapters import quiet_peft
from rm_toolkit.models.heads import reward_head
from rm_toolkit.models.loading import quiet_loading


@pytest.fixture
def classifier(base_model):
    """A stock classifier in memory, as users of TRL load it."""
    with quiet_loading(), torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForSequenceClassification.from_pretrained(base_model(), num_labels=1)


@pytest.fixture
def given(base_model, rows, tmp_path):
    """Model, configuration and data: the first arguments of both trainers, in order."""
    return (
        base_model(),
        RewardModelConfig(str(tmp_path), use_cpu=True, max_length=64),
        Dataset.from_list(rows.pairs(4)),
    )


def adapted(classifier, **config):
    with quiet_peft():
        return get_peft_model(classifier, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], **config))


def test_trls_positional_order_is_refused_in_words(given, base_model):
    model, args, data = given
    tokenizer = AutoTokenizer.from_pretrained(base_model())
    for collator in (None, lambda rows: rows):
        with pytest.raises(
            InputError, match="In TRL the third is the data collator: pass the arguments after `args` by name"
        ):
            RewardModelTrainer(model, args, collator, data, data, tokenizer)


@pytest.mark.parametrize("name", ["data_collator", "model_init", "compute_metrics", "preprocess_logits_for_metrics"])
def test_functions_that_would_never_be_called_are_refused(given, name):
    with pytest.raises(InputError, match=f"`{name}` is not used: "):
        RewardModelTrainer(*given, **{name: lambda *values: values})
    assert RewardModelTrainer(*given, **{name: None})


def test_another_configuration_and_no_model_are_refused(given, tmp_path):
    model, args, data = given
    with pytest.raises(
        InputError, match=r"`args` is a transformers TrainingArguments; it must be a `rm_toolkit.RewardModelConfig`"
    ):
        RewardModelTrainer(model, TrainingArguments(str(tmp_path), use_cpu=True), data)
    with pytest.raises(InputError, match="`model` is None; give a folder"):
        RewardModelTrainer(None, args, data)


def test_without_a_configuration_the_output_is_named_after_the_model(given, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    model, _, data = given
    assert RewardModelTrainer(model, train_dataset=data).args.output_dir == model.split("/")[-1] + "-Reward"


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_labels": 2}, "a `num_labels` other than 1"),
        ({"banana": 1}, "`model_init_kwargs` has 'banana', which "),
        ({"seed": 1}, "`model_init_kwargs` has 'seed', which the trainer chooses itself"),
    ],
)
def test_options_of_loading_that_are_refused(make_trainer, rows, options, message):
    with pytest.raises(InputError, match=message):
        make_trainer(rows.pairs(2), model_init_kwargs=options)


def test_options_of_loading_for_a_model_that_is_loaded_are_refused(make_trainer, rows, classifier):
    with pytest.raises(InputError, match="'dtype' would have no effect: the model is already loaded"):
        make_trainer(rows.pairs(2), classifier, model_init_kwargs={"dtype": "bfloat16"})


def test_a_model_in_half_precision_passes_the_reload_check(make_trainer, rows):
    trainer = make_trainer(rows.pairs(4), max_steps=1, model_init_kwargs={"dtype": "bfloat16", "num_labels": 1})
    assert {weight.dtype for weight in trainer.model.classifier.parameters()} == {torch.bfloat16}
    trainer.train()
    trainer.save_model()
    assert trainer.reload_check() == 3


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize(
    "config", [{}, {"modules_to_save": ["score"]}, {"inference_mode": True, "task_type": "SEQ_CLS"}]
)
def test_the_head_of_a_ready_made_adapter_is_trained_and_saved(make_trainer, rows, classifier, config, merge):
    model = adapted(classifier, **config)
    lora = {name: weight.detach().clone() for name, weight in model.named_parameters() if "lora_B" in name}
    head = classifier.score.weight.detach().clone()
    trainer = make_trainer(rows.pairs(4), model, max_steps=2, merge_adapter=merge)
    assert torch.equal(reward_head(trainer.model.base_classifier).weight, head), "nothing is drawn anew"
    trainer.train()
    assert not torch.equal(reward_head(trainer.model.base_classifier).weight, head)
    weights = dict(trainer.model.classifier.named_parameters())
    assert all(not torch.equal(weights[name], before) for name, before in lora.items())
    trainer.save_model()
    if merge and not config:  # an unmerged adapter names its base, whose head was drawn in memory
        assert trainer.reload_check() == 3


def test_an_adapter_on_an_adapter_and_several_adapters_are_refused(make_trainer, rows, classifier):
    model = adapted(classifier)
    with pytest.raises(InputError, match="`peft_config` is given with a model that has an adapter already"):
        make_trainer(rows.pairs(2), model, peft_config=LoraConfig())
    with quiet_peft():
        model.add_adapter("other", LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(InputError, match=r"the model has 2 adapters .*; only one can be trained"):
        make_trainer(rows.pairs(2), model)


@pytest.mark.parametrize("kind", [PromptTuningConfig, PrefixTuningConfig, PromptEncoderConfig])
def test_virtual_tokens_are_refused(make_trainer, rows, kind):
    with pytest.raises(InputError, match=f"`peft_config` is a {kind.__name__}: .* nothing would be learned"):
        make_trainer(rows.pairs(2), peft_config=kind(num_virtual_tokens=4))


def test_what_is_no_config_of_peft_is_refused(make_trainer, rows):
    with pytest.raises(InputError, match=r"`peft_config` is a dict; it must be a PEFT config"):
        make_trainer(rows.pairs(2), peft_config={"r": 4})


def test_predictions_are_the_rewards_of_each_pair_and_the_metrics_of_an_evaluation(make_trainer, rows):
    trainer = make_trainer(rows.pairs(4))
    tests = Dataset.from_list(rows.pairs(3, seed=1) + rows.pairs(1, seed=2))
    output = trainer.predict(tests)
    data = trainer.prepare_data(tests, "test")
    rewards = trainer.compute_rewards(data)
    assert output.predictions.tolist() == [[rewards[b], rewards[w]] for b, w in zip(data.better, data.worse)]
    assert output.label_ids is None
    evaluated = trainer.evaluate(tests, metric_key_prefix="test")
    for name in ("test_accuracy", "test_margin", "test_loss", "test_num_pairs"):
        assert output.metrics[name] == evaluated[name]
    assert output.metrics["test_accuracy"] == (output.predictions[:, 0] > output.predictions[:, 1]).mean()


@pytest.fixture
def experts(base_model, tmp_path):
    """Folder of a tiny mixture of experts."""
    tokenizer = AutoTokenizer.from_pretrained(base_model())
    size = {"hidden_size": 16, "intermediate_size": 16, "moe_intermediate_size": 8, "head_dim": 8}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "num_experts": 2}
    tokens = {"vocab_size": len(tokenizer), "bos_token_id": 1, "eos_token_id": 2, "num_experts_per_tok": 1}
    with quiet_loading():
        Qwen3MoeForCausalLM(Qwen3MoeConfig(**size, **heads, **tokens)).save_pretrained(tmp_path / "moe")
    tokenizer.save_pretrained(tmp_path / "moe")
    return str(tmp_path / "moe")


@pytest.mark.filterwarnings("ignore:The following .*_pattern keys did not match:RuntimeWarning")  # PEFT's own names
@pytest.mark.parametrize(
    "targets",
    [
        {"target_modules": ["q_proj", "gate_proj", "up_proj", "down_proj"]},  # the names of transformers 4
        {"target_modules": ["q_proj"], "target_parameters": ["experts.gate_up_proj", "experts.down_proj"]},
    ],
)
def test_adapters_on_experts_are_trained(make_trainer, rows, experts, targets):
    trainer = make_trainer(rows.pairs(4), experts, max_steps=2, peft_config=LoraConfig(r=2, **targets))
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters() if "lora_B" in name}
    assert any("experts" in name for name in before)
    trainer.train()
    after = dict(trainer.model.named_parameters())
    assert all(not torch.equal(after[name], weight) for name, weight in before.items())
    if "target_parameters" in targets:
        trainer.save_model()
        assert trainer.reload_check() == 3


@pytest.mark.filterwarnings("ignore:target_parameters=.* were set but no parameter was matched:RuntimeWarning")
def test_weights_of_experts_that_are_not_there_are_refused(make_trainer, rows, experts):
    config = LoraConfig(target_modules=["q_proj"], target_parameters=["experts.down_prj"])
    with pytest.raises(
        InputError, match=r"`lora_target_parameters` has 'experts.down_prj', .* Did you mean 'experts.do"
    ):
        make_trainer(rows.pairs(2), experts, peft_config=config)


def test_a_head_with_a_bias_is_refused_unless_the_bias_is_zero(make_trainer, rows, classifier, base_model, tmp_path):
    classifier.score = torch.nn.Linear(classifier.config.hidden_size, 1)
    torch.nn.init.constant_(classifier.score.bias, 3.0)
    with pytest.raises(InputError, match=r"the model has a reward head with a bias \(`score.bias` is 3\)"):
        make_trainer(rows.pairs(2), classifier)
    with quiet_loading():
        classifier.save_pretrained(tmp_path / "biased")
    AutoTokenizer.from_pretrained(base_model()).save_pretrained(tmp_path / "biased")
    with pytest.raises(InputError, match=r"biased' has a reward head with a bias .* other programs would ignore it"):
        RewardScorer(tmp_path / "biased")
    weights = load_file(tmp_path / "biased" / "model.safetensors")
    save_file(weights | {"score.bias": torch.zeros(1)}, tmp_path / "biased" / "model.safetensors", {"format": "pt"})
    assert RewardScorer(tmp_path / "biased", device="cpu")


def test_a_value_head_is_named_with_the_command_that_converts_it(base_model, tmp_path, monkeypatch):
    with quiet_loading():
        lm = AutoModelForCausalLM.from_pretrained(base_model())
        lm.save_pretrained(tmp_path / "ppo")
    AutoTokenizer.from_pretrained(base_model()).save_pretrained(tmp_path / "ppo")
    head = {"v_head.summary.weight": torch.randn(1, lm.config.hidden_size), "v_head.summary.bias": torch.zeros(1)}
    file = tmp_path / "ppo" / "model.safetensors"
    save_file(load_file(file) | head, file, {"format": "pt"})
    with pytest.raises(InputError, match=r"has no reward head .* It has 'v_head.summary.weight'") as refusal:
        RewardScorer(tmp_path / "ppo")
    monkeypatch.chdir(tmp_path)
    with quiet_loading():
        exec(str(refusal.value).split('python -c "')[1].rstrip('".'), {})
    assert torch.equal(load_file("ppo-reward/model.safetensors")["score.weight"], head["v_head.summary.weight"])
    assert RewardScorer("ppo-reward", device="cpu").score(["## Human:\nHi\n\n## Assistant:\n"], ["Hello."])
