"""QLoRA: what a 4-bit base rules out, and what a run trains, saves and prints. bitsandbytes runs on a CPU, too."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from trl import ModelConfig

from rm_toolkit.errors import InputError
from rm_toolkit.models.settings import load_settings
from rm_toolkit.scoring.scorer import RewardScorer
from rm_toolkit.training import stages
from rm_toolkit.training.config import RewardModelConfig
from rm_toolkit.training.quantization_flags import quantization_config
from rm_toolkit.training.recipe import parse_recipe


ROOT = Path(__file__).parents[2]
TEXTS = ["## Human:\nriver stone\n\n## Assistant:\nlantern.", "window garden letter morning copper"]
needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes: pip install -e '.[qlora]'"
)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture
def training(tmp_path):
    return RewardModelConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none")


@pytest.fixture
def run(tmp_path, rows):
    """`run(stage, base, device, *flags)`: runs a recipe in this process; returns its folder and its trainer."""
    pairs = [
        {"text": [row["prompt"] + row["chosen"], row["prompt"] + row["rejected"]], "score": [1.0, 0.0]}
        for row in rows.pairs(16)
    ]
    (tmp_path / "data.json").write_text(json.dumps(pairs))

    def go(stage, base, device, *flags):
        if device == "cuda" and not torch.cuda.is_available():
            pytest.skip("no CUDA device")
        values = {
            "model_name_or_path": base,
            "train_datasets": f"toy={tmp_path / 'data.json'}",
            "eval_datasets": f"toy={tmp_path / 'data.json'}",
            "output_dir": tmp_path / stage,
            "use_cpu": device == "cpu",
            "max_length": 48,
            "pairs_per_step": 4,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-2,
            "general_replay_fraction": 0,
            "anchor_coef": 0,
            "lm_loss_coef": 0.1,
            "save_strategy": "no",
        }
        words = [str(word) for key, value in values.items() for word in (f"--{key}", value)]
        words += ["--allow_overlap", "--disable_tqdm", "true", "--domain", "literature"]
        words += [
            "--load_in_4bit",
            "--use_peft",
            "--lora_r",
            "4",
            "--lora_target_modules",
            "q_proj",
            "up_proj",
            *flags,
        ]
        recipe, training, model = parse_recipe(ROOT / "recipes" / "tiny" / f"{stage}.yaml", words)
        data = stages.load_stage_data(recipe, training)
        trainer = stages.build_trainer(recipe, training, model, *data, stage=stage)
        stages.run_stage(trainer, recipe, None)
        return tmp_path / stage, trainer

    return go


def trained_rewards(trainer):
    from datasets import Dataset

    row = Dataset.from_list([{"prompt": "", "chosen": TEXTS[0], "rejected": TEXTS[1]}])
    data = trainer._prepare_dataset(row, trainer.processing_class, trainer.args, "texts")
    rewards = trainer.compute_rewards(data)
    return [float(rewards[data.better[0]]), float(rewards[data.worse[0]])]


def rewards_from(folder):
    return RewardScorer(folder, device="cpu").score([""] * len(TEXTS), TEXTS)


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"load_in_8bit": True, "use_peft": True}, "`load_in_8bit` is not supported. Set `load_in_4bit: true`"),
        ({"load_in_4bit": True}, "4-bit weights cannot be trained. Add `use_peft: true`"),
    ],
)
def test_what_cannot_be_trained_is_refused(training, flags, message):
    with pytest.raises(InputError, match=message):
        quantization_config(ModelConfig(**flags), training)


def test_a_missing_library_is_named_with_its_command(training, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs bitsandbytes, which is not installed: pip install .*\[qlora\]"):
        quantization_config(ModelConfig(load_in_4bit=True, use_peft=True), training)


def test_engines_that_take_weights_apart_are_refused(training, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(InputError, match=r"shards the weights. Use accelerate_configs/single_gpu.yaml"):
        quantization_config(ModelConfig(load_in_4bit=True, use_peft=True), training)


def test_without_the_flag_nothing_is_quantized(training):
    assert quantization_config(ModelConfig(use_peft=True), training) is None


@needs_bitsandbytes
@pytest.mark.parametrize("device", DEVICES)
def test_two_stages_on_a_base_in_four_bits(run, base_model, device, capsys):
    folder, trainer = run("grft", base_model(), device)
    layers = {name: type(layer).__name__ for name, layer in trainer.model.named_modules()}
    kinds = {name.split(".")[-2] for name, kind in layers.items() if kind == "Linear4bit" and "base_layer" in name}
    assert kinds == {"q_proj", "up_proj"} and sum(kind == "Linear4bit" for kind in layers.values()) > 4
    head = {name: value for name, value in trainer.model.named_parameters() if "score" in name}
    assert {value.dtype for value in head.values()} == {torch.float32}
    assert any(value.requires_grad for value in head.values())
    # Only the adapter with the head is saved; stock classes would load it on the base in full precision.
    assert "has only the adapter and the reward head" in "".join(capsys.readouterr())
    assert not (folder / "model.safetensors").exists() and not (folder / "config.json").exists()
    names = load_file(folder / "adapter_model.safetensors")
    assert any("score" in name for name in names)
    settings = load_settings(str(folder))
    assert settings.quantization["bnb_4bit_quant_type"] == "nf4" and not settings.stock
    expected = trained_rewards(trainer)
    assert abs(expected[0] - expected[1]) > 1e-3
    assert rewards_from(folder) == pytest.approx(expected, abs=1e-5 if device == "cpu" else 2e-2)

    # The second stage continues training the same adapter on the same base.
    crft, second = run("crft", str(folder), device)
    config = json.loads((crft / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == base_model()
    results = [json.loads((path / "final_eval_results.json").read_text()) for path in (folder, crft)]
    assert results[1]["start"]["toy"]["loss"] == pytest.approx(results[0]["end"]["toy"]["loss"], abs=1e-5)
    assert rewards_from(crft) == pytest.approx(trained_rewards(second), abs=1e-5 if device == "cpu" else 2e-2)
    assert trained_rewards(second) != pytest.approx(expected, abs=1e-4)


@needs_bitsandbytes
@pytest.mark.parametrize("device", DEVICES)
def test_a_merged_folder_has_the_rewards_of_training_in_stock_classes(run, base_model, device):
    folder, trainer = run("grft", base_model(), device, "--merge_adapter", "true")
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        found = [model(**tokenizer(text, return_tensors="pt")).logits.item() for text in TEXTS]
    assert found == pytest.approx(trained_rewards(trainer), abs=1e-5 if device == "cpu" else 2e-2)
    assert load_settings(str(folder)).quantization is None and load_settings(str(folder)).stock
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    # PEFT would merge into the 4-bit weights; that is not what is saved.
    assert not torch.equal(
        load_file(folder / "model.safetensors")["model.layers.0.self_attn.q_proj.weight"],
        load_file(f"{base_model()}/model.safetensors")["model.layers.0.self_attn.q_proj.weight"],
    )
