"""The recipes as users start them, end to end, with the engines that work without a GPU."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer


ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.launch


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A folder that looks like a fresh checkout to the recipes, so that a developer's outputs are not touched."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("recipes", "data"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def launch(folder, *arguments, expected=0, timeout=600):
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "cache"), "COLUMNS": "120"}
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", *map(str, arguments)]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout)
    output = result.stdout + result.stderr
    assert (result.returncode == 0) == (expected == 0), output[-4000:]
    return output


def results(folder):
    return json.loads((folder / "final_eval_results.json").read_text())


@pytest.fixture(scope="module")
def grft(checkout):
    return launch(checkout, "recipes/grft.py")


@pytest.fixture(scope="module")
def crft(checkout, grft):
    return launch(checkout, "recipes/crft.py", "--domain", "literature")


def test_grft_on_the_defaults_raises_every_general_test_set(checkout, grft):
    values = results(checkout / "outputs/grft")
    assert list(values["end"]) == ["helpful", "harmless", "webgpt", "gpt4llm"]
    for name, end in values["end"].items():
        assert end["accuracy"] >= values["start"][name]["accuracy"] + 0.10, name
    assert "Next: accelerate launch recipes/crft.py --domain literature" in grft
    assert "Engine NO, 1 process(es)" in grft


def test_crft_on_the_defaults_learns_the_domain_and_keeps_the_general_ability(checkout, crft):
    values = results(checkout / "outputs/crft-literature")
    assert values["start"]["dsp_literature"]["accuracy"] < 0.75
    assert values["end"]["dsp_literature"]["accuracy"] > 0.9
    general = ["helpful", "harmless", "webgpt", "gpt4llm"]
    losses = [values["start"][name]["accuracy"] - values["end"][name]["accuracy"] for name in general]
    assert sum(losses) / len(losses) < 0.05


def test_the_result_opens_in_stock_classes_and_remembers_its_lineage(checkout, crft):
    folder = checkout / "outputs/crft-literature"
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        logits = model(**tokenizer("## Human:\nHello\n\n## Assistant:\nHi", return_tensors="pt")).logits
    assert logits.shape == (1, 1) and torch.isfinite(logits).all()
    settings = json.loads((folder / "rm_toolkit.json").read_text())
    assert [entry["stage"] for entry in settings["lineage"]] == ["grft", "crft"]
    assert settings["domain"] == "literature" and settings["lm_head"] == "saved"
    assert not list(folder.glob("*.bin")) and not list(folder.glob("*.pt"))


def test_the_default_runs_warn_of_nothing(grft, crft):
    for output in (grft, crft):
        ours = output.split("To avoid this warning pass in values", 1)[-1]
        assert not re.search(r"warn|deprecat|Traceback|error", ours, re.IGNORECASE), ours


def test_a_second_run_stops_in_one_line_and_changes_nothing(checkout, grft):
    before = (checkout / "outputs/grft/model.safetensors").stat().st_mtime_ns
    output = launch(checkout, "-q", "recipes/grft.py", expected=2)
    errors = [line for line in output.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and "--overwrite_output_dir" in errors[0] and "--resume_from_checkpoint" in errors[0]
    assert "Traceback" not in output
    assert (checkout / "outputs/grft/model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("recipe", [pytest.param("sft", marks=pytest.mark.slow), "grft"])
def test_two_zero3_processes_build_the_tiny_base_and_train_after_an_evaluation(checkout, tmp_path, recipe):
    """One process builds the base; if its weights were initialized in shards, it would wait for the other forever."""
    config = yaml.safe_load((ROOT / "accelerate_configs" / "zero3_offload.yaml").read_text())
    config |= {"use_cpu": True, "num_processes": 2, "main_process_port": 0}
    (tmp_path / "zero3.yaml").write_text(yaml.safe_dump(config))
    flags = {
        "model_name_or_path": tmp_path / "tiny",
        "tiny_base": '{"vocab_size": 512, "hidden_size": 32, "num_layers": 1, "num_heads": 2}',
        "train_datasets": '{"webgpt": {"path": "data/samples/webgpt.train.jsonl", "source": "webgpt"}}',
        "eval_datasets": '{"webgpt": {"path": "data/samples/webgpt.test.jsonl", "source": "webgpt"}}',
        "max_steps": 1,
        "max_length": 32,
        "eval_strategy": "no",
        "output_dir": tmp_path / recipe,
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", value)]
    output = launch(checkout, "--config_file", tmp_path / "zero3.yaml", f"recipes/{recipe}.py", *words, timeout=240)
    if recipe == "grft":
        assert "Engine DEEPSPEED ZeRO-3" in output and "2 process(es)" in output
        AutoModelForSequenceClassification.from_pretrained(tmp_path / recipe)
    else:
        assert re.search(r"webgpt +│ +6\.\d+ │ +6\.\d+ │", output), output[-2000:]
        AutoModelForCausalLM.from_pretrained(tmp_path / recipe)


@pytest.mark.slow
def test_crft_without_its_base_says_what_to_run(tmp_path):
    for name in ("recipes", "data"):
        (tmp_path / name).symlink_to(ROOT / name)
    output = launch(tmp_path, "-q", "recipes/crft.py", "--domain", "literature", expected=2)
    assert "accelerate launch recipes/grft.py" in output and "Traceback" not in output
    assert not (tmp_path / "outputs").exists()
