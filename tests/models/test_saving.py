"""The saved folder: its layout, and that stock classes read the trainer's rewards from it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, pipeline

from rm_toolkit.errors import InputError
from rm_toolkit.models.lm_head import find_lm_head
from rm_toolkit.models.reward_model import RewardModel
from rm_toolkit.models.saving import check_saved_weights, write_legacy_rope_keys
from rm_toolkit.models.settings import load_settings
from rm_toolkit.training.weights import load_weights


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def stock_rewards(folder, texts):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return [model(**tokenizer(text, truncation=True, return_tensors="pt")).logits.item() for text in texts]


@pytest.fixture
def save(make_trainer, tmp_path, rows):
    """Trains a step or two and saves: `(folder, trainer)`."""

    def run(model=None, name="rm", **options):
        trainer = make_trainer(rows.pairs(8), model, **options)
        trainer.train()
        trainer.save_model(str(tmp_path / name))
        return tmp_path / name, trainer

    return run


# ---- layout ----


@pytest.mark.parametrize("architecture, class_name", [("llama", "Llama"), ("qwen3", "Qwen3")])
def test_the_folder_is_a_stock_classifier(save, base_model, read_json, architecture, class_name):
    folder, _ = save(base_model(architecture))
    config = read_json(folder / "config.json")
    assert config["architectures"] == [f"{class_name}ForSequenceClassification"]
    assert config["problem_type"] == "regression"  # otherwise pipeline and vLLM return sigmoid(reward)
    assert AutoConfig.from_pretrained(folder).num_labels == 1
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert config["pad_token_id"] == tokenizer.pad_token_id != tokenizer.eos_token_id
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] and config["rope_scaling"] is None
    weights = load_file(folder / "model.safetensors")
    assert weights["score.weight"].shape == (1, 16)
    assert not [name for name in weights if "lm_head" in name or name.endswith("score.bias")]
    assert {value.dtype for value in weights.values()} == {torch.float32}


def test_the_folder_holds_what_it_should_and_no_pickle(save, base_model):
    folder, _ = save()
    tokenizer = {name for name in files(folder) if "token" in name or name.endswith((".jinja", ".model"))}
    assert files(folder) - tokenizer == {
        "config.json",
        "model.safetensors",
        "rm_toolkit.json",
        "lm_head/model.safetensors",
    }


def test_nothing_is_left_of_saving(save):
    folder, _ = save()
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_settings_are_saved_and_read_back(save):
    folder, _ = save(pooling_type="eos", max_length=40)
    settings = load_settings(str(folder))
    assert (settings.pooling_type, settings.data_format, settings.max_length) == ("eos", "text", 40)
    assert settings.lm_head == "saved"
    (folder / "rm_toolkit.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"rm_toolkit.json is not valid JSON"):
        load_settings(str(folder))


def test_legacy_rope_keys_carry_scaling(tmp_path):
    """transformers 4 only reads `rope_theta` and `rope_scaling`, and would otherwise silently use theta 10000."""
    path = tmp_path / "config.json"
    scaled = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}
    path.write_text(json.dumps({"rope_parameters": {"rope_theta": 500000.0, **scaled}}))
    write_legacy_rope_keys(path)
    config = json.loads(path.read_text())
    assert config["rope_theta"] == 500000.0 and config["rope_scaling"] == scaled
    path.write_text(json.dumps({"hidden_size": 8}))  # without rotary positions, nothing changes
    write_legacy_rope_keys(path)
    assert json.loads(path.read_text()) == {"hidden_size": 8}


def test_the_pipeline_of_transformers_gives_the_raw_reward(save, rows):
    folder, _ = save()
    texts = [row["prompt"] + row["chosen"] for row in rows.pairs(3)] + ["river stone " * 60]
    scores = [
        answer["score"]
        for answer in pipeline("text-classification", model=str(folder), device="cpu")(texts, truncation=True)
    ]
    assert scores == pytest.approx(stock_rewards(folder, texts), abs=1e-5)
    assert min(scores) < 0 or max(scores) > 1  # no sigmoid


def test_saving_again_replaces_and_leaves_no_stale_shard(save, rows):
    folder, trainer = save()
    save_file({"x": torch.zeros(1)}, folder / "model-00001-of-00002.safetensors")
    with torch.no_grad():
        trainer.model.base_classifier.score.weight.fill_(0.5)
    trainer.save_model(str(folder))
    assert load_file(folder / "model.safetensors")["score.weight"].unique().tolist() == [0.5]
    # vLLM and sglang load every top-level safetensors file.
    assert [path.name for path in folder.glob("*.safetensors")] == ["model.safetensors"]


def test_a_file_of_the_user_beside_the_weights_is_neither_removed_nor_read(save):
    folder, trainer = save()
    save_file({"score.weight": torch.full((1, 16), float("nan"))}, folder / "mine.safetensors")
    trainer.save_model(str(folder))  # includes a check
    assert (folder / "mine.safetensors").exists()
    save_file({"score.weight": torch.ones(1, 16)}, folder / "model-extra.safetensors")
    before = trainer.model.base_classifier.score.weight.clone()
    load_weights(trainer.model, folder)
    assert torch.equal(trainer.model.base_classifier.score.weight, before)


# ---- the LM head ----


def test_a_trained_head_is_saved_and_continued(save, base_model):
    first, trainer = save(lm_loss_coef=0.5)
    saved = load_file(first / "lm_head" / "model.safetensors")["weight"]
    assert torch.equal(saved, trainer.model.lm_head.weight)
    start = load_file(f"{base_model()}/model.safetensors")["lm_head.weight"]
    assert not torch.equal(saved[: len(start)], start)
    _, second = save(str(first), "second", lm_loss_coef=0.5, learning_rate=0.0, require_head=True)
    assert torch.equal(second.model.lm_head.weight, saved)


def test_a_head_is_carried_through_a_run_that_does_not_load_it(save, base_model):
    start = load_file(f"{base_model()}/model.safetensors")["lm_head.weight"]
    first, trainer = save(lm_loss_coef=0.0)  # from a base model
    assert trainer.model.lm_head is None
    assert torch.equal(load_file(first / "lm_head" / "model.safetensors")["weight"], start)
    second, _ = save(str(first), "second", lm_loss_coef=0.0)  # from a reward model
    assert torch.equal(load_file(second / "lm_head" / "model.safetensors")["weight"], start)
    _, third = save(str(second), "third", lm_loss_coef=0.5, learning_rate=0.0)
    assert torch.equal(third.model.lm_head.weight[: len(start)], start)
    assert len(third.model.lm_head.weight) == third.model.get_input_embeddings().num_embeddings


@pytest.mark.parametrize("coefficient", [0.0, 0.5])
def test_a_tied_head_is_noted_and_not_copied(save, base_model, coefficient):
    folder, _ = save(base_model("qwen3", tied=True), lm_loss_coef=coefficient)
    assert load_settings(str(folder)).lm_head == "tied" and not (folder / "lm_head").exists()
    _, again = save(str(folder), "again", lm_loss_coef=0.5)
    assert again.model.lm_head.weight is again.model.get_input_embeddings().weight


def test_a_model_without_a_head_says_so_when_its_loss_is_asked_for(save, make_trainer, rows):
    folder, _ = save()
    (folder / "lm_head" / "model.safetensors").unlink()
    assert find_lm_head(str(folder), AutoConfig.from_pretrained(folder)) is None
    with pytest.raises(InputError, match=r"`lm_loss_coef` is above 0, but .* has no language-modeling head"):
        make_trainer(rows.pairs(2), str(folder), lm_loss_coef=0.1)
    make_trainer(rows.pairs(2), str(folder), lm_loss_coef=0.0)


# ---- the check after an intermediate save ----


def test_the_check_of_a_save_names_what_is_wrong(save):
    folder, trainer = save()
    check_saved_weights(trainer.model, folder)
    path = folder / "model.safetensors"
    good = load_file(path)

    def write(**changes):
        changed = {name: value for name, value in {**good, **changes}.items() if value is not None}
        save_file(changed, path, metadata={"format": "pt"})

    write(**{"score.weight": torch.full((1, 16), float("nan"))})
    with pytest.raises(InputError, match=r"the reward head 'score.weight' has NaN"):
        check_saved_weights(trainer.model, folder)
    write(**{"score.weight": None})
    with pytest.raises(InputError, match=r"was saved without a reward head"):
        check_saved_weights(trainer.model, folder)
    write(**{"model.norm.weight": torch.ones(3)})
    with pytest.raises(InputError, match=r"tensor 'model.norm.weight' was saved with shape \[3\]"):
        check_saved_weights(trainer.model, folder)
    write(**{"model.norm.weight": None})
    with pytest.raises(InputError, match=r"'model.norm.weight' is missing"):
        check_saved_weights(trainer.model, folder)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"model.safetensors cannot be read back"):
        check_saved_weights(trainer.model, folder)


def test_a_head_is_found_in_a_sharded_base_and_shards_load_back(save, base_model, tmp_path, monkeypatch):
    from transformers import AutoModelForCausalLM, PreTrainedModel

    base = tmp_path / "sharded"
    AutoTokenizer.from_pretrained(base_model()).save_pretrained(base)
    AutoModelForCausalLM.from_pretrained(base_model()).save_pretrained(base, max_shard_size="20KB")
    assert len(list(base.glob("model-*.safetensors"))) > 1
    start = load_file(f"{base_model()}/model.safetensors")["lm_head.weight"]
    folder, _ = save(str(base))
    assert torch.equal(load_file(folder / "lm_head" / "model.safetensors")["weight"], start)
    # The reward model itself in shards.
    saved = PreTrainedModel.save_pretrained
    monkeypatch.setattr(
        PreTrainedModel,
        "save_pretrained",
        lambda self, *args, **kwargs: saved(self, *args, max_shard_size="20KB", **kwargs),
    )
    shards, trainer = save(str(base), "shards", lm_loss_coef=0.1)
    assert len(list(shards.glob("model-*.safetensors"))) > 1
    found = RewardModel.from_pretrained(str(shards), require_head=True, with_lm_head=True).state_dict()
    assert all(torch.equal(value, found[name]) for name, value in trainer.model.state_dict().items())
    load_weights(trainer.model, shards)
    # A later save into one file leaves no shard behind.
    monkeypatch.setattr(PreTrainedModel, "save_pretrained", saved)
    trainer.save_model(str(shards))
    assert [path.name for path in shards.glob("*.safetensors*")] == ["model.safetensors"]


@pytest.mark.parametrize("architecture", ["GPTNeoX", "Mixtral"])
def test_weights_that_have_other_names_in_files_than_in_the_model(save, base_model, rows, tmp_path, architecture):
    """transformers 5 renames Pythia's `embed_out` to `lm_head`, and stacks experts that files store one by one."""
    from transformers import AutoModelForCausalLM

    base = tmp_path / "base"
    tokenizer = AutoTokenizer.from_pretrained(base_model())
    tokenizer.save_pretrained(base)
    experts = {"num_local_experts": 2, "num_key_value_heads": 2} if architecture == "Mixtral" else {}
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = getattr(transformers, f"{architecture}Config")(
        vocab_size=len(tokenizer), **size, **experts, bos_token_id=1, eos_token_id=2, initializer_range=0.2
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(base)
    folder, trainer = save(str(base), lm_loss_coef=0.1)
    check_saved_weights(trainer.model, folder)
    texts = [row["prompt"] + row["chosen"] for row in rows.pairs(3)]
    expected = stock_rewards(folder, texts)
    with torch.no_grad():
        trainer.model.base_classifier.score.weight.zero_()
    load_weights(trainer.model, folder)
    trainer.save_model(str(tmp_path / "again"))
    assert stock_rewards(tmp_path / "again", texts) == pytest.approx(expected, abs=1e-6)
    weights = load_file(folder / "model.safetensors")
    del weights[next(name for name in weights if "layers.1.input_layernorm" in name)]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"is missing"):
        check_saved_weights(trainer.model, folder)
    with pytest.raises(InputError, match=r"it lacks '.*layers.1"):
        load_weights(trainer.model, folder)


# ---- added tokens ----


@pytest.mark.parametrize("tied", [False, True])
def test_rows_of_added_tokens_do_not_depend_on_chance(make_trainer, base_model, rows, tied):
    """They take part in the LM loss. A LoRA checkpoint does not contain them, but resumes with the same rows."""
    found = []
    for noise in (0, 1):
        torch.manual_seed(noise)
        base = base_model(tied=tied)
        found.append(make_trainer(rows.pairs(2), base).model.get_input_embeddings().weight.detach().clone())
    assert len(found[0]) == AutoConfig.from_pretrained(base).vocab_size + 1
    assert torch.equal(*found)


# ---- LoRA ----

LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False}  # an adapter that has an effect


@pytest.mark.filterwarnings("error")
def test_lora_is_saved_merged_with_the_same_rewards(save, rows):
    folder, trainer = save(peft_config=LoraConfig(**LORA))
    texts = [row["prompt"] + row["chosen"] for row in rows.pairs(4)]
    with torch.no_grad():
        inside = [
            trainer.model.classifier(
                **trainer.processing_class(text, return_tensors="pt", truncation=True)
            ).logits.item()
            for text in texts
        ]
    assert np.ptp(inside) > 1e-2
    assert stock_rewards(folder, texts) == pytest.approx(inside, abs=1e-5)
    adapter = load_file(folder / "adapter" / "adapter_model.safetensors")
    assert not [name for name in adapter if "embed" in name]  # would be half a gigabyte for a 7B model
    assert [name for name in adapter if "lora" in name] and [name for name in adapter if name.endswith("score.weight")]
    # The model in memory is still the adapted one.
    assert trainer.model.is_peft
    assert [name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad and "lora" in name]


def test_lora_trains_the_reward_head(make_trainer, rows):
    trainer = make_trainer(rows.pairs(8), peft_config=LoraConfig(r=4))
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    changed = {
        name for name, value in trainer.model.named_parameters() if not torch.equal(value.detach(), before[name])
    }
    assert any("score" in name for name in changed) and any("lora" in name for name in changed)
    assert not [name for name in changed if "lora" not in name and "score" not in name]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT's own
def test_the_adapter_on_its_base_gives_the_merged_rewards(save, base_model, rows):
    from peft import PeftModel

    folder, trainer = save(peft_config=LoraConfig(**LORA))
    base = RewardModel.from_pretrained(base_model())
    base.resize_token_embeddings(len(trainer.processing_class))
    base.config.pad_token_id = trainer.processing_class.pad_token_id
    adapted = PeftModel.from_pretrained(base.classifier, folder / "adapter").eval()
    texts = [row["prompt"] + row["chosen"] for row in rows.pairs(4)]
    with torch.no_grad():
        found = [adapted(**trainer.processing_class(text, return_tensors="pt")).logits.item() for text in texts]
    assert found == pytest.approx(stock_rewards(folder, texts), abs=1e-5)
