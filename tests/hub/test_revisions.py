"""At every entry point, a Hub revision applies to weights, tokenizer, settings, LM head and adapter."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from conftest import pair_rows
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer
from trl import ModelConfig

from rm_toolkit.cli import main
from rm_toolkit.evaluation import evaluate
from rm_toolkit.models.hub_files import split_revision
from rm_toolkit.models.reward_model import RewardModel
from rm_toolkit.models.settings import load_settings
from rm_toolkit.scoring.files import model_identity
from rm_toolkit.scoring.scorer import RewardScorer
from rm_toolkit.training import stages
from rm_toolkit.training.plan.skeleton import base_config
from rm_toolkit.training.recipe import RecipeArguments, parse_recipe


pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),
]
TEXTS = ["river stone lantern window", "window garden letter morning copper " * 12, "market shadow"]


def rewards(model, **options):
    return RewardScorer(model, device="cpu", **options).score(["## Human:\n"] * len(TEXTS), TEXTS)


def changed(path, name, change):
    tensors = load_file(path)
    save_file({**tensors, name: change(tensors[name]).contiguous()}, path, metadata={"format": "pt"})


def second_version(folder, target):
    """The same architecture with a different head, tokenizer (no BOS), settings and LM head."""
    shutil.copytree(folder, target)
    generator = torch.Generator().manual_seed(1)
    changed(target / "model.safetensors", "score.weight", lambda old: torch.randn(old.shape, generator=generator))
    changed(target / "lm_head/model.safetensors", "weight", lambda old: old + 1)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))
    tokenizer = json.loads((target / "tokenizer.json").read_text())
    tokenizer["post_processor"] = None
    (target / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings = json.loads((target / "rm_toolkit.json").read_text())
    (target / "rm_toolkit.json").write_text(json.dumps({**settings, "max_length": 40, "stage": "second"}))
    return target


def publish(hub, name, first, second):
    """Publishes one folder on the main branch and another on `v2`."""
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(name)
    api.create_branch(name, branch="v2")
    api.upload_folder(repo_id=name, folder_path=first)
    api.upload_folder(repo_id=name, folder_path=second, revision="v2")
    return hub.models[name].branches


@pytest.fixture
def versions(reward_model, hub, tmp_path):
    """Local folders of `tester/rm` as published on the branches main and v2."""
    first = reward_model()
    second = second_version(first, tmp_path / "second")
    publish(hub, "tester/rm", first, second)
    return str(first), str(second)


@pytest.fixture
def adapters(versions, hub, make_trainer, rows, tmp_path):
    """Local folders of two adapters, one for each version, as published on the branches of `tester/adapter`."""
    folders = []
    for revision in ("main", "v2"):
        trainer = make_trainer(
            rows.pairs(8, seed=len(folders)),
            "tester/rm",
            peft_config=LoraConfig(r=2, target_modules=["q_proj"]),
            model_init_kwargs={"revision": revision},
            learning_rate=0.1,
            max_length=128 if revision == "main" else 40,
            max_steps=2,
        )
        trainer.train()
        trainer.save_model(str(tmp_path / f"run-{revision}"))
        folders.append(tmp_path / f"run-{revision}" / "adapter")
    publish(hub, "tester/adapter", *folders)
    return folders


def test_an_id_with_a_revision_is_parted_and_a_folder_is_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine@home").mkdir()
    assert split_revision("owner/name@v2") == ("owner/name", "v2")
    assert split_revision("owner/name@refs/pr/3") == ("owner/name", "refs/pr/3")
    assert split_revision("owner/name", "v2") == ("owner/name", "v2")
    for name in ("owner/name", "mine@home", "a/b/c@d", "owner/name@", "@x"):
        assert split_revision(name) == (name, None)


def test_the_scorer_and_the_model_take_all_parts_of_a_revision(versions):
    first, second = versions
    expected = rewards(second)
    assert expected != pytest.approx(rewards(first), abs=1e-3)
    for found in (rewards("tester/rm", revision="v2"), rewards("tester/rm@v2")):
        assert found == pytest.approx(expected, abs=1e-6)
    assert rewards("tester/rm") == pytest.approx(rewards(first), abs=1e-6)
    scorer = RewardScorer("tester/rm@v2", device="cpu")
    assert scorer.settings == load_settings(second) and scorer.settings.max_length == 40
    assert scorer.tokenizer("a b")["input_ids"] == RewardScorer(second, device="cpu").tokenizer("a b")["input_ids"]
    model = RewardModel.from_pretrained("tester/rm", revision="v2", with_lm_head=True)
    head = load_file(f"{second}/lm_head/model.safetensors")["weight"]  # without the row of the pad token
    assert torch.equal(model.lm_head.weight[: len(head)], head)
    assert model.settings.stage == "second" and model.revision == "v2"


def test_score_and_evaluate_name_a_revision(versions, hub, tmp_path):
    _, second = versions
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps({"prompt": "## Human:\n", "completion": text}) + "\n" for text in TEXTS))
    command = ["score", "--model", "tester/rm@v2", "--input", str(source), "--output", str(output), "--device", "cpu"]
    assert main(command) == 0
    found = [json.loads(line)["reward"] for line in output.read_text().splitlines()]
    assert found == pytest.approx(rewards(second), abs=1e-5)
    test = tmp_path / "test.jsonl"
    test.write_text("".join(json.dumps(row) + "\n" for row in pair_rows(6)))
    spec = {"mine": {"path": str(test), "source": "jsonl", "split": "train"}}
    metrics = evaluate(["tester/rm@v2", "tester/rm", second], spec, device="cpu", resamples=10).metrics
    results = {name: found["mine"]["margin"] for name, found in metrics["results"].items()}
    assert results["rm@v2"] == pytest.approx(results["second"]) != pytest.approx(results["rm"])
    assert metrics["models"]["rm@v2"]["revision"] == hub.models["tester/rm"].branches["v2"]


def test_a_recipe_takes_all_parts_of_a_revision_and_its_adapter_names_it(versions, hub, tmp_path, rows):
    _, second = versions
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows.pairs(8)))
    recipe_file = tmp_path / "recipe.yaml"
    settings = {
        "model_name_or_path": "tester/rm",
        "model_revision": "v2",
        "train_datasets": {"mine": {"path": str(data), "source": "jsonl", "split": "train"}},
        "output_dir": str(tmp_path / "run"),
        "max_length": 48,
        "max_steps": 1,
        "per_device_train_batch_size": 4,
        "lm_loss_coef": 0.1,
        "report_to": "none",
        "use_cpu": True,
        "use_peft": True,
        "lora_target_modules": ["q_proj"],
    }
    recipe_file.write_text(json.dumps(settings))
    recipe, training, model = parse_recipe(recipe_file, [])
    train, evaluation, replay = stages.load_stage_data(recipe, training)
    trainer = stages.build_trainer(recipe, training, model, train, evaluation, replay, stage="crft")
    base = trainer.model.base_classifier
    assert torch.equal(base.score.original_module.weight, load_file(f"{second}/model.safetensors")["score.weight"])
    head = load_file(f"{second}/lm_head/model.safetensors")["weight"]
    assert torch.equal(trainer.model.lm_head.weight[: len(head)], head)
    assert (
        trainer.processing_class("river")["input_ids"] == AutoTokenizer.from_pretrained(second)("river")["input_ids"]
    )
    assert trainer.model.settings.lineage[-1]["changed_settings"]["model_revision"] == "v2"
    trainer.train()
    trainer.save_model()
    adapter = tmp_path / "run" / "adapter"
    assert json.loads((adapter / "adapter_config.json").read_text())["revision"] == "v2"
    assert rewards(adapter) == pytest.approx(rewards(tmp_path / "run"), abs=1e-5)


def test_the_plan_reads_the_revision_s_config(versions, hub):
    found = [
        base_config(RecipeArguments(), ModelConfig(model_name_or_path="tester/rm", model_revision=revision))
        for revision in ("main", "v2")
    ]
    assert [config.rms_norm_eps for config in found] == [1e-6, 1e-3]


@pytest.mark.slow
def test_an_adapter_is_read_at_its_revision_and_on_that_of_its_base(versions, adapters, tmp_path, caplog):
    configs = [json.loads((folder / "adapter_config.json").read_text()) for folder in adapters]
    assert [config["revision"] for config in configs] == [None, "v2"]  # the main branch is not recorded
    expected = [rewards(folder.parent) for folder in adapters]  # the merged models
    assert expected[0] != pytest.approx(expected[1], abs=1e-3)
    assert rewards("tester/adapter") == pytest.approx(expected[0], abs=1e-5)
    assert rewards("tester/adapter@v2") == pytest.approx(expected[1], abs=1e-5)
    assert rewards("tester/adapter", revision="v2") == pytest.approx(expected[1], abs=1e-5)
    # With the adapter on a loaded base.
    for base, adapter, wanted in (("tester/rm@v2", "tester/adapter@v2", 1), ("tester/rm", "tester/adapter", 0)):
        scorer = RewardScorer(base, adapters={"law": adapter}, device="cpu")
        found = scorer.score(["## Human:\n"] * len(TEXTS), TEXTS, domains=["law"] * len(TEXTS))
        assert found == pytest.approx(expected[wanted], abs=1e-5)
    assert "was trained on" not in caplog.text


@pytest.mark.slow
def test_an_adapter_without_a_tokenizer_has_that_of_its_base_s_revision(versions, adapters, tmp_path):
    expected = rewards(adapters[1])
    alone = shutil.copytree(adapters[1], tmp_path / "alone", ignore=shutil.ignore_patterns("tokenizer*"))
    assert rewards(alone) == pytest.approx(expected, abs=1e-6)


def test_what_a_score_rests_on_changes_with_revision_and_commit(versions, hub, fresh_cache):
    from huggingface_hub import HfApi

    before = [model_identity(name, "float32", {}) for name in ("tester/rm", "tester/rm@v2")]
    assert before[0] != before[1]
    HfApi().upload_file(path_or_fileobj=b"{}", path_in_repo="x.json", repo_id="tester/rm", revision="v2")
    fresh_cache()
    assert model_identity("tester/rm", "float32", {}) == before[0]
    assert model_identity("tester/rm@v2", "float32", {}) != before[1]
