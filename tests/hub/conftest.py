"""The real clients in this process, directed to a loopback server; models and datasets to publish."""

import math
import os
import shutil

import pytest
from conftest import pair_rows
from hub_server import hub_server


MARKER_TOKEN = "hf_MarkerTokenThatMustNotShow"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """State of a running server, with its `address`; the clients' caches are empty folders."""
    import datasets
    from huggingface_hub import HfFileSystem, close_session, constants, hf_api
    from huggingface_hub.utils import _http

    with hub_server(MARKER_TOKEN) as (address, state):
        state.address = address
        cache = tmp_path / "hub-cache"
        for name, value in {
            "ENDPOINT": address,
            "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,  # see hub_server
            "HF_HUB_CACHE": str(cache),
        }.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(hf_api.api, "endpoint", address)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", address)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", MARKER_TOKEN)
        # By default, the client retries a broken connection for 23 seconds.
        monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)
        close_session()
        HfFileSystem.clear_instance_cache()
        yield state
        close_session()
        HfFileSystem.clear_instance_cache()


@pytest.fixture
def fresh_cache(hub, tmp_path, monkeypatch):
    """`fresh_cache()`: makes the clients forget what they have downloaded."""
    from huggingface_hub import constants

    def forget():
        number = sum(1 for _ in tmp_path.glob("fresh-*"))
        (tmp_path / f"fresh-{number}").mkdir()
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / f"fresh-{number}"))

    return forget


@pytest.fixture
def quick_reload(monkeypatch):
    """Replaces the reload check's fresh process, which takes seconds; one test runs the real one."""
    from rm_toolkit.errors import InputError
    from rm_toolkit.hub import models
    from rm_toolkit.scoring.reload_check import read_rewards

    def check(folder, texts, rewards, **options):
        found = read_rewards(str(folder), texts)
        if not all(math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-5) for a, b in zip(rewards, found, strict=True)):
            raise InputError("reload check failed")

    monkeypatch.setattr(models, "check_reload", check)


LINEAGE = [
    {
        "stage": "grft",
        "domain": None,
        "base": "some/base",
        "base_is_local": False,
        "datasets": {
            "helpful": {
                "rows": 43774,
                "fingerprint": "f1",
                "spec": {"path": "/home/someone/secret-place/hh", "source": "hh"},
                "local": True,
                "sources": ["hh"],
                "license": None,
            }
        },
        "learning_rate": 1e-6,
        "max_steps": -1,
        "changed_settings": {"warmup_steps": 100},
        "versions": {"torch": "2.13.0"},
    },
    {
        "stage": "crft",
        "domain": "literature",
        "base": "/home/someone/secret-place/grft",
        "base_is_local": True,
        "datasets": {
            "dsp": {
                "rows": 12,
                "fingerprint": "f2",
                "spec": "/home/someone/secret-place/dsp:0.5",
                "local": True,
                "sources": ["dsp"],
                "license": None,
            },
            "mine": {
                "rows": 7,
                "fingerprint": "f3",
                "spec": {"path": "owner/mine", "split": "train"},
                "local": False,
                "sources": ["preference"],
                "license": "cc-by-4.0",
            },
        },
        "learning_rate": 1e-7,
        "changed_settings": {"use_peft": True, "lora_r": 8},
        "versions": {"torch": "2.13.0"},
    },
]
RESULTS = {
    "start": {"helpful": {"accuracy": 0.5, "margin": 0.0, "num_pairs": 2352, "num_ties": 0}},
    "end": {
        "helpful": {
            "accuracy": 0.73104,
            "first_two_accuracy": 0.73104,
            "margin": 1.25,
            "loss": 0.5,
            "reward_mean": -0.25,
            "reward_std": 1.75,
            "num_pairs": 2352,
            "num_ties": 3,
            "num_label_ties": 0,
        }
    },
}


@pytest.fixture(scope="session")
def saved_models(tmp_path_factory, base_model, base_encoder):
    """`saved_models(name)`: a saved run, built once: text, chat, adapter, or max (which no stock class reads)."""
    built = {}

    def get(name):
        if name not in built:
            built[name] = tmp_path_factory.mktemp(name) / "run"
            _train(name, built[name], base_model, base_encoder)
        return built[name]

    return get


def _train(name, folder, base_model, base_encoder):
    import json

    from datasets import Dataset
    from peft import LoraConfig

    from rm_toolkit import RewardModelConfig, RewardModelSettings, RewardModelTrainer

    rows = pair_rows(8)
    if name == "chat":
        turn = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
        rows = [{key: [{"role": role, "content": row[key]}] for key, role in turn.items()} for row in rows]
    options = {"max": {"pooling_type": "max"}, "chat": {"data_format": "chat"}}.get(name, {})
    trainer = RewardModelTrainer(
        base_encoder() if name == "max" else base_model("qwen3" if name == "chat" else "llama"),
        RewardModelConfig(
            output_dir=str(folder),
            use_cpu=True,
            gradient_checkpointing=False,
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
            max_length=48,
            max_steps=1,
            per_device_train_batch_size=4,
            **options,
        ),
        Dataset.from_list(rows),
        peft_config=LoraConfig(r=4, target_modules=["q_proj"]) if name == "adapter" else None,
        settings=RewardModelSettings(stage="crft", domain="literature", lineage=LINEAGE),
    )
    trainer.train()
    trainer.save_model()
    (folder / "final_eval_results.json").write_text(json.dumps(RESULTS))
    (folder / "checkpoint-3").mkdir()
    (folder / "checkpoint-3" / "optimizer.pt").write_bytes(b"pickle")


@pytest.fixture
def model_folder(saved_models, tmp_path):
    """`model_folder(name)`: a copy that a test may change."""

    def get(name="text"):
        return shutil.copytree(saved_models(name), tmp_path / "models" / name, dirs_exist_ok=True)

    return get


@pytest.fixture
def child_environment(hub, tmp_path):
    """Environment for a command in a process of its own."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    return environment | {
        "HF_ENDPOINT": hub.address,
        "HF_TOKEN": MARKER_TOKEN,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
    }
