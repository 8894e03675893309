"""`rm-toolkit push` with the real Hub client against a loopback server."""

import os
import subprocess
import sys

import pytest
from conftest import pair_rows
from hub_server import hub_server

from rm_toolkit.errors import InputError
from rm_toolkit.hub import push_model
from rm_toolkit.saving import save_reward_model


@pytest.fixture
def folder(make_trainer, tmp_path):
    trainer = make_trainer(pair_rows(8))
    trainer.model.settings.lineage = [{"stage": "grft", "domain": None, "base": "some/base"}]
    save_reward_model(trainer.model, tmp_path / "rm", trainer.processing_class)
    (tmp_path / "rm" / "checkpoint-3").mkdir()
    (tmp_path / "rm" / "checkpoint-3" / "optimizer.pt").write_bytes(b"pickle")
    return tmp_path / "rm"


def push(folder, address, token, tmp_path):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {
        "HF_ENDPOINT": address,
        "HF_TOKEN": token,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
    }
    command = [sys.executable, "-m", "rm_toolkit.cli", "push", "--model", str(folder), "--repo-id", "tester/my-rm"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def test_a_model_is_checked_and_uploaded_without_training_state(folder, tmp_path):
    with hub_server() as (address, state):
        result = push(folder, address, "hf_secret", tmp_path)
    assert result.returncode == 0, result.stderr
    assert f"{address}/tester/my-rm/commit/" in result.stdout
    uploaded = state.repos["tester/my-rm"]
    assert uploaded["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert uploaded["lm_head/model.safetensors"] == (folder / "lm_head" / "model.safetensors").read_bytes()
    assert {"config.json", "tokenizer.json", "rm_toolkit.json", "README.md"} <= set(uploaded)
    assert not [name for name in uploaded if "checkpoint" in name or name.endswith((".pt", ".bin"))]
    card = uploaded["README.md"].decode()
    assert "tester/my-rm" in card and "base_model: some/base" in card and "reward-model" in card
    assert "hf_secret" not in card + result.stdout + result.stderr


def test_a_wrong_token_is_a_clear_error_and_is_not_shown(folder, tmp_path):
    with hub_server() as (address, state):
        result = push(folder, address, "hf_wrong", tmp_path)
    assert result.returncode == 2
    assert "the Hub refused tester/my-rm" in result.stderr and "hf auth login" in result.stderr
    assert "Traceback" not in result.stderr and "hf_wrong" not in result.stderr
    assert not state.repos


def test_a_model_that_reloads_differently_is_not_uploaded(folder, tmp_path):
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 0.5'))
    settings = (folder / "rm_toolkit.json").read_text()
    (folder / "rm_toolkit.json").write_text(settings.replace('"max_length": 48', '"max_length": 12'))
    with hub_server() as (address, state):
        result = push(folder, address, "hf_secret", tmp_path)
    assert result.returncode == 2 and "reload check failed" in result.stderr
    assert not state.repos


def test_a_folder_that_is_no_reward_model_is_refused(tmp_path):
    with pytest.raises(InputError, match="is no folder of a reward model"):
        push_model(str(tmp_path), "tester/my-rm")


def test_a_repository_must_be_named(folder):
    with pytest.raises(InputError, match="no repository is named"):
        push_model(str(folder), None)
