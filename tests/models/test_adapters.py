"""LoRA with TRL's flags through the recipes; adapters merged, alone, and on top of each other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rm_toolkit.errors import InputError
from rm_toolkit.hub import push_model
from rm_toolkit.models.adapters import merged_classifier, quiet_peft
from rm_toolkit.models.reward_model import RewardModel
from rm_toolkit.models.settings import load_settings
from rm_toolkit.scoring.reload_check import read_rewards
from rm_toolkit.scoring.scorer import RewardScorer
from rm_toolkit.training import stages
from rm_toolkit.training.recipe import parse_recipe
from rm_toolkit.training.trainer import RewardModelTrainer


ROOT = Path(__file__).parents[2]
TEXTS = ["## Human:\nriver stone\n\n## Assistant:\nlantern.", "window garden letter morning copper", "river " * 60]
LORA = ["--use_peft", "--lora_r", "4", "--lora_alpha", "16", "--lora_target_modules", "q_proj", "up_proj"]


def rewards_from(folder):
    return RewardScorer(folder, device="cpu").score([""] * len(TEXTS), TEXTS)


def stock_rewards(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return [model(**tokenizer(text, truncation=True, return_tensors="pt")).logits.item() for text in TEXTS]


@pytest.fixture
def run(tmp_path, rows):
    """`run("grft" | "crft", base, *flags)`: runs a recipe in this process; returns its folder and its trainer."""
    data = tmp_path / "data.json"
    items = [
        {"text": [row["prompt"] + row["chosen"], row["prompt"] + row["rejected"]], "score": [1.0, 0.0]}
        for row in rows.pairs(16)
    ]
    data.write_text(json.dumps(items))

    def go(stage, base, *flags, resume=None):
        output = str(tmp_path / stage)
        recipe, training, model = parse_recipe(
            ROOT / "recipes" / "tiny" / f"{stage}.yaml",
            [
                "--model_name_or_path",
                str(base),
                "--train_datasets",
                f"toy={data}",
                "--eval_datasets",
                f"toy={data}",
                "--allow_overlap",
                "--domain",
                "literature",
                "--output_dir",
                output,
                "--use_cpu",
                "true",
                "--disable_tqdm",
                "true",
                "--max_length",
                "48",
                "--pairs_per_step",
                "4",
                "--per_device_train_batch_size",
                "4",
                "--learning_rate",
                "1e-2",
                "--num_train_epochs",
                "2",
                *flags,
            ],
        )
        train, evaluation, _ = stages.load_stage_data(recipe, training)
        trainer = stages.build_trainer(recipe, training, model, train, evaluation, stage=stage)
        stages.run_stage(trainer, recipe, resume)
        return Path(output), trainer

    return go


def test_both_stages_by_flags(run, base_model):
    """The task type is set for the user: the flag's default is CAUSAL_LM, which would lose the head."""
    base = base_model("qwen3", tied=True)
    grft, trainer = run("grft", base, *LORA, "--lm_loss_coef", "0.1", "--save_steps", "4", "--save_strategy", "steps")
    trained = {name for name, value in trainer.model.named_parameters() if value.requires_grad}
    assert {name.split(".")[-1] for name in trained if "lora_" not in name} == {"weight"}
    assert any("score" in name for name in trained) and "lm_head.weight" in trained
    assert not any("embed_tokens" in name or ("layers" in name and "lora_" not in name) for name in trained)

    # The folder is the merged stock layout; the adapter, in its own folder, gives the same rewards.
    expected = stock_rewards(grft)
    assert np.ptp(expected) > 0.05
    assert rewards_from(grft) == pytest.approx(expected, abs=1e-5)
    assert rewards_from(grft / "adapter") == pytest.approx(expected, abs=1e-5)
    assert "score.weight" in load_file(grft / "model.safetensors")
    names = load_file(grft / "adapter" / "adapter_model.safetensors")
    assert any("score" in name for name in names) and not any("embed" in name for name in names)
    assert json.loads((grft / "adapter" / "adapter_config.json").read_text())["task_type"] == "SEQ_CLS"
    # The LM head was trained: a tied one got a weight of its own, in its subfolder.
    assert load_settings(str(grft)).lm_head == "saved"
    head = load_file(grft / "lm_head" / "model.safetensors")["weight"]
    assert not torch.allclose(head, load_file(grft / "model.safetensors")["model.embed_tokens.weight"])
    assert torch.equal(head, trainer.model.lm_head.weight)
    # A checkpoint contains only the adapter, and is read like one.
    checkpoint = grft / "checkpoint-8"
    assert not (checkpoint / "model.safetensors").exists() and not (checkpoint / "README.md").exists()
    assert rewards_from(checkpoint) == pytest.approx(expected, abs=1e-5)

    # A new adapter on the merged model.
    crft, trainer = run("crft", grft, *LORA, "--lm_loss_coef", "0.1")
    config = json.loads((crft / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(grft)
    results = json.loads((crft / "final_eval_results.json").read_text())
    before = json.loads((grft / "final_eval_results.json").read_text())
    assert results["start"]["toy"] == pytest.approx(before["end"]["toy"], abs=1e-5)  # it begins where the other ended
    expected = stock_rewards(crft)
    assert np.abs(np.array(expected) - stock_rewards(grft)).max() > 1e-3
    assert rewards_from(crft / "adapter") == pytest.approx(expected, abs=1e-5)
    assert [entry["stage"] for entry in load_settings(str(crft)).lineage] == ["grft", "crft"]


def test_a_run_with_an_adapter_resumes_by_its_flags_alone(run, base_model, monkeypatch):
    monkeypatch.setattr(RewardModelTrainer, "reload_check", lambda trainer: 0)  # starts a process each time
    grft, whole = run(
        "grft", base_model(), *LORA, "--save_steps", "3", "--save_strategy", "steps", "--save_total_limit", "5"
    )
    interrupted = str(grft / "checkpoint-3")

    def forget_what_came_after():
        for folder in grft.glob("checkpoint-*"):
            if folder != Path(interrupted):
                shutil.rmtree(folder)

    forget_what_came_after()
    again, _ = run("grft", base_model(), *LORA, "--save_total_limit", "5", resume=interrupted)
    forget_what_came_after()
    found = load_file(again / "adapter" / "adapter_model.safetensors")
    state = whole.model.classifier.state_dict()
    for name, value in found.items():
        name = name.replace(".weight", ".default.weight") if "lora_" in name else name
        name = name.replace("score.weight", "score.modules_to_save.default.weight")
        assert torch.equal(value, state[name]), name
    with pytest.raises(InputError, match=r"checkpoint-3 was made with other settings \(.*adapter"):
        run("grft", base_model(), resume=interrupted)


@pytest.mark.slow
def test_an_adapter_without_use_peft_is_trained_further(run, base_model, monkeypatch, capsys):
    base = base_model("qwen3", tied=True)
    with monkeypatch.context() as patch:
        patch.setattr(RewardModelTrainer, "reload_check", lambda trainer: 0)
        grft, _ = run("grft", base, *LORA, "--lm_loss_coef", "0")
    before = load_file(grft / "adapter" / "adapter_model.safetensors")
    flags = ["--lm_loss_coef", "0.1", "--save_total_limit", "5"]
    crft, trainer = run("crft", grft / "adapter", *flags, "--save_strategy", "steps", "--save_steps", "3")
    assert "is trained further" in "".join(capsys.readouterr())
    # The same adapter continues: same base and rank, from its trained weights; nothing else changes.
    config = json.loads((crft / "adapter" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["r"]) == (base, 4)
    results = [json.loads((path / "final_eval_results.json").read_text()) for path in (grft, crft)]
    assert results[1]["start"]["toy"] == pytest.approx(results[0]["end"]["toy"], abs=1e-5)
    after = load_file(crft / "adapter" / "adapter_model.safetensors")
    assert before.keys() == after.keys()
    assert not any(torch.equal(before[name], after[name]) for name in before)
    trained = {name for name, value in trainer.model.named_parameters() if value.requires_grad}
    assert all("lora_" in name or "score" in name or name == "lm_head.weight" for name in trained)
    assert "lm_head.weight" in trained and load_settings(str(crft)).lm_head == "saved"
    # Merged folder, adapter and the model in memory agree; the reload check in the run has seen this, too.
    expected = stock_rewards(crft)
    assert np.abs(np.array(expected) - stock_rewards(grft)).max() > 1e-3
    assert rewards_from(crft / "adapter") == pytest.approx(expected, abs=1e-5)
    # An interrupted run continues to the same end.
    for checkpoint in crft.glob("checkpoint-*"):
        if checkpoint.name != "checkpoint-3":
            shutil.rmtree(checkpoint)
    monkeypatch.setattr(RewardModelTrainer, "reload_check", lambda trainer: 0)
    run("crft", grft / "adapter", *flags, resume=str(crft / "checkpoint-3"))
    again = load_file(crft / "adapter" / "adapter_model.safetensors")
    assert all(torch.equal(after[name], again[name]) for name in after)


def test_an_adapter_without_a_head_is_not_trained_further(make_trainer, base_model, rows, tmp_path):
    base = AutoModelForSequenceClassification.from_pretrained(base_model(), num_labels=1)
    with quiet_peft():
        get_peft_model(base, LoraConfig(r=2, task_type="FEATURE_EXTRACTION")).save_pretrained(tmp_path / "headless")
    with pytest.raises(InputError, match=r"headless' has no reward head.*Pass --use_peft"):
        make_trainer(rows.pairs(8), str(tmp_path / "headless"))


def test_gradients_reach_a_further_trained_adapter_through_checkpointing(make_trainer, rows, tmp_path, step_gradients):
    make_trainer(rows.pairs(8), peft_config=LoraConfig(r=2)).save_model(str(tmp_path / "rm"))
    found = [
        step_gradients(make_trainer(rows.pairs(8), str(tmp_path / "rm" / "adapter"), gradient_checkpointing=on))
        for on in (False, True)
    ]
    assert all("lora_" in name or "score" in name for name in found[0][1])
    assert any("lora_B" in name for name in found[0][1])
    assert found[0][1].keys() == found[1][1].keys()
    assert all(torch.allclose(found[0][1][name], value, atol=1e-6) for name, value in found[1][1].items())


def test_a_stage_can_start_from_an_adapter_folder(make_trainer, base_model, rows, tmp_path):
    make_trainer(rows.pairs(8), peft_config=LoraConfig(r=2), lm_loss_coef=0.1).save_model(str(tmp_path / "rm"))
    trainer = make_trainer(rows.pairs(8), str(tmp_path / "rm" / "adapter"), require_head=True)
    trainer.save_model(str(tmp_path / "next"))
    assert stock_rewards(tmp_path / "next") == pytest.approx(stock_rewards(tmp_path / "rm"), abs=1e-5)
    adapted = make_trainer(rows.pairs(8), str(tmp_path / "rm" / "adapter"), peft_config=LoraConfig(r=2))
    adapted.save_model(str(tmp_path / "third"))
    assert rewards_from(tmp_path / "third" / "adapter") == pytest.approx(stock_rewards(tmp_path / "rm"), abs=1e-5)


@pytest.mark.parametrize("pooling_type", ["cls", "average"])
@pytest.mark.parametrize("architecture", ["bert", "roberta", "modernbert"])
def test_adapters_of_encoders(make_trainer, base_encoder, rows, tmp_path, architecture, pooling_type):
    """PEFT has no default target modules for ModernBERT, so all linear layers are used."""
    trainer = make_trainer(
        rows.pairs(8), base_encoder(architecture), peft_config=LoraConfig(r=2), pooling_type=pooling_type
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "rm"))
    found = rewards_from(tmp_path / "rm")
    assert np.ptp(found) > 1e-2
    assert rewards_from(tmp_path / "rm" / "adapter") == pytest.approx(found, abs=1e-5)
    assert read_rewards(str(tmp_path / "rm"), TEXTS) == pytest.approx(found, abs=1e-5)
    if pooling_type == "cls":
        assert stock_rewards(tmp_path / "rm") == pytest.approx(found, abs=1e-5)
    biases = [
        value
        for name, value in load_file(tmp_path / "rm" / "model.safetensors").items()
        if name.endswith("classifier.bias")
    ]
    assert all(value.item() == 0 for value in biases)


@pytest.mark.parametrize("tied", [False, True])
def test_weights_gathered_from_an_engine_merge_to_the_same_model(make_trainer, base_model, rows, tied):
    """DeepSpeed shards the model and returns a full state dict, from which a full copy is built."""
    trainer = make_trainer(rows.pairs(8), base_model("qwen3", tied=tied), peft_config=LoraConfig(r=2))
    trainer.train()
    expected = merged_classifier(trainer.model).state_dict()
    found = merged_classifier(trainer.model, trainer.model.classifier.state_dict()).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_adapter_starts_from_the_seed_alone(make_trainer, rows):
    found = []
    for noise in (0, 1):
        torch.manual_seed(noise)
        model = make_trainer(rows.pairs(2), peft_config=LoraConfig(r=2)).model
        found.append(torch.cat([value.flatten() for name, value in model.named_parameters() if "lora_A" in name]))
    assert torch.equal(*found)


# ---- refusals ----


@pytest.fixture
def adapter(make_trainer, base_model, rows, tmp_path):
    """Folder of a run with an adapter, on a copy of the base that a test may remove."""
    shutil.copytree(base_model(), tmp_path / "base")
    trainer = make_trainer(rows.pairs(4), str(tmp_path / "base"), peft_config=LoraConfig(r=2))
    trainer.save_model(str(tmp_path / "rm"))
    return tmp_path / "rm" / "adapter"


def test_a_base_that_is_gone_is_named(adapter, tmp_path):
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(
        InputError,
        match=r"is an adapter for the base '.*base', which is not a local folder .*"
        r"`base_model_name_or_path` of adapter_config.json. The merged model in '.*rm' needs no base",
    ):
        RewardScorer(adapter)


def test_a_base_of_another_shape_is_refused(adapter, base_encoder, tmp_path):
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = base_encoder("bert")
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"the adapter in .* does not fit its base"):
        RewardModel.from_pretrained(str(adapter))


def test_an_adapter_without_its_weights_is_refused(adapter):
    (adapter / "adapter_model.safetensors").write_bytes(b"1234")
    with pytest.raises(InputError, match=r"adapter_model\.safetensors is damaged"):
        RewardScorer(adapter)
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"no `adapter_model\.safetensors`"):
        RewardScorer(adapter)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT's own
def test_an_adapter_that_lost_the_head_is_refused(base_model, tmp_path):
    """As saved by other toolkits with a `LoraConfig()` that has no task type."""
    model = RewardModel.from_pretrained(base_model())
    get_peft_model(model.classifier, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path)
    with pytest.raises(
        InputError, match=r"cannot be added to its base \(.*\): .* has no reward head \(`score.weight`\)"
    ):
        RewardScorer(tmp_path)
    with pytest.raises(InputError, match=r"has only an adapter"):
        push_model(str(tmp_path), "me/rm")


def test_target_modules_that_are_not_there_are_refused(make_trainer, rows):
    with pytest.raises(InputError, match=r"`lora_target_modules` has 'k_prj', but .* Did you mean 'k_proj'\?"):
        make_trainer(rows.pairs(2), peft_config=LoraConfig(target_modules=["q_proj", "k_prj"]))


def test_one_target_module_is_a_name_and_not_a_pattern(make_trainer, rows):
    """A flag with one value becomes a string (`ModelConfig`), which PEFT would match against whole paths."""
    names = [
        {name.split(".lora_")[0].split(".")[-1] for name, _ in model.named_parameters() if "lora_" in name}
        for targets in ("q_proj", "all-linear")
        for model in [make_trainer(rows.pairs(2), peft_config=LoraConfig(target_modules=targets)).model]
    ]
    assert names[0] == {"q_proj"} and names[1] >= {"q_proj", "down_proj"} and "score" not in names[1]
