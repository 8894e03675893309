"""Does `rm-toolkit plan` predict the memory that a GPU allocates? Compares the plans of three runs with the runs."""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

import torch
import yaml
from datasets import Dataset
from trl import get_peft_config

from rm_toolkit.models.reward_model import RewardModel
from rm_toolkit.models.settings import RewardModelSettings
from rm_toolkit.testing import train_tokenizer
from rm_toolkit.training.plan.launch import Launch
from rm_toolkit.training.plan.plan import launched_precision, make_plan
from rm_toolkit.training.recipe import parse_recipe
from rm_toolkit.training.trainer import RewardModelTrainer

from ..contenders import Setting


LIMIT = 0.2
SETTINGS: dict[str, dict[str, Any]] = {
    "full": {"gradient_checkpointing": False},
    "checkpointing": {"gradient_checkpointing": True, "batch_layout": "plain"},
    "lora": {"gradient_checkpointing": False, "use_peft": True, "lora_r": 16, "learning_rate": 1e-4},
}
COMMON = {
    "train_datasets": {"mine": "nowhere"},
    "report_to": "none",
    "max_length": 512,
    "per_device_train_batch_size": 8,
    "pairs_per_step": 16,
    "save_strategy": "no",
    "disable_tqdm": True,
    "logging_steps": 1,
    "max_steps": 2,
}


def compare_plan(args: argparse.Namespace, name: str) -> tuple[str, str]:
    """Compares the plan with `max_memory_allocated` of two steps on texts that are all cut to `max_length`."""
    folder = args.output / f"plan-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnop", k=5)) for _ in range(2000)]
    lines = [" ".join(rng.choices(words, k=40)) for _ in range(1000)]
    tokenizer = train_tokenizer(lines, folder / "base", vocab_size=4096)
    tokenizer.pad_token = tokenizer.unk_token
    setting = Setting(tokenizer, args.shape, args.device, 512, 8, 16, "")
    setting.config().save_pretrained(folder / "base")
    on_cpu = args.device == "cpu"
    recipe_file = _write_recipe(folder, SETTINGS[name] | {"bf16": not on_cpu})
    flags = ["--use_cpu", "true", "--bf16", "false"]  # the plan is made without a GPU
    recipe, training, model_config = parse_recipe(recipe_file, flags)
    plan = make_plan(
        recipe,
        training,
        model_config,
        Launch("none", on_cpu=on_cpu),
        precision=launched_precision(not on_cpu, False, on_cpu),
    )
    context = plan.states.device.get("CUDA context", 0)
    expected = plan.device_total - context
    _, training, model_config = parse_recipe(recipe_file, ["--use_cpu", "true"] if on_cpu else [])
    pairs = [{key: " ".join(rng.choices(words, k=600)) for key in ("chosen", "rejected")} for _ in range(32)]
    with torch.device(args.device):
        model = RewardModel(setting.model(), RewardModelSettings(max_length=512))
    trainer = RewardModelTrainer(
        model,
        training,
        Dataset.from_list(pairs),
        processing_class=tokenizer,
        peft_config=get_peft_config(model_config),
    )
    if not on_cpu:
        torch.cuda.reset_peak_memory_stats()
    trainer.train()
    said = f"planned {expected / 2**30:.2f} GiB without the CUDA context, layout {plan.layout}"
    if plan.layout != trainer.batch_layout:
        return "failed", f"{said}; the run has the layout {trainer.batch_layout}"
    if on_cpu:
        return "skipped", f"{said}; the run works, but only a GPU counts its allocations"
    measured = torch.cuda.max_memory_allocated()
    error = expected / measured - 1
    text = f"{said}; allocated {measured / 2**30:.2f} GiB; the plan is {error:+.0%} off (limit {LIMIT:.0%})"
    return "passed" if abs(error) <= LIMIT else "failed", text


def _write_recipe(folder: Path, settings: dict[str, Any]) -> Path:
    values = {
        "model_name_or_path": str(folder / "base"),
        "output_dir": str(folder / "run"),
        **COMMON,
        **settings,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path
