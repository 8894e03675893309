"""Helpers to test resuming: an interrupted run of a recipe, and every way in which its next launch may differ."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any


ROOT = Path(__file__).parents[1]
LORA = ["--use_peft", "--lora_r", "2", "--lora_alpha", "4", "--lora_target_modules", "q_proj", "up_proj"]
# 12 pairs, 3 of the 4 in a step customized: 4 steps per epoch, 8 in total.
FLAGS = {
    "--use_cpu": "true", "--disable_tqdm": "true", "--max_length": "48", "--pairs_per_step": "4",
    "--per_device_train_batch_size": "4", "--learning_rate": "1e-2", "--lr_scheduler_type": "linear",
    "--warmup_steps": "2", "--num_train_epochs": "2", "--seed": "42", "--lm_loss_coef": "0.1", "--domain": "literature",
    "--general_replay_fraction": "0.25", "--anchor_coef": "0.1", "--save_strategy": "steps", "--save_steps": "2",
    "--save_total_limit": "9", "--eval_on_start": "false", "--eval_strategy": "no", "--logging_steps": "1",
    "--optim": "adamw_torch",
}  # fmt: skip


class Stop(Exception):
    """Ends a run like a kill: no further checkpoint is written."""


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    """Writes pairs as a text-score file; returns its path."""
    items = [{"text": [r["prompt"] + r["chosen"], r["prompt"] + r["rejected"]], "score": [1.0, 0.0]} for r in rows]
    path.write_text(json.dumps(items), encoding="utf-8")
    return str(path)


def write_data(folder: Path, pairs: Any) -> dict[str, str]:
    """Writes training, replayed and test rows, and variants of them; returns the files by name."""
    rows = pairs(12)
    edited = [dict(row) for row in rows]
    edited[5]["chosen"] += " More."
    shuffled = random.Random(1).sample(rows, len(rows))
    files = {
        "train": rows, "edited": edited, "shuffled": shuffled, "replay": pairs(8, seed=3), "replay2": pairs(8, seed=4),
        "test": pairs(4, seed=5), "test2": pairs(4, seed=6),
    }  # fmt: skip
    return {name: write_rows(folder / f"{name}.json", content) for name, content in files.items()}


def start(base: str, output: Path, files: dict[str, str], *flags: str, callbacks: list | None = None, **options: str):
    """
    Builds the trainer of a launch of `recipes/crft.py`.

    Args:
        base (`str`): Folder of the base model.
        output (`Path`): Output folder.
        files (`dict[str, str]`): From [`write_data`].
        flags (`str`): Flags added after `FLAGS`.
        callbacks (`list`, *optional*): Callbacks to add to the trainer.
        options (`str`): `train`, `replay`, `test`: names of other files to use.

    Returns:
        `tuple`: The recipe's arguments, the trainer, and the checkpoint to resume from, if any.
    """
    from rm_toolkit.training import stages
    from rm_toolkit.training.recipe import parse_recipe
    from rm_toolkit.training.resume_from import resolve_resume

    used = {name: files[options.get(name, name)] for name in ("train", "replay", "test")}
    values = {
        **FLAGS, "--model_name_or_path": base, "--output_dir": str(output), "--allow_new_head": "true",
        "--train_datasets": f"toy={used['train']}", "--replay_datasets": f"general={used['replay']}",
        "--eval_datasets": f"toy={used['test']}",
    }  # fmt: skip
    words = [word for pair in values.items() for word in pair]
    recipe, training, model = parse_recipe(ROOT / "recipes" / "tiny" / "crft.yaml", [*words, *flags])
    resume = resolve_resume(training)
    train, evaluation, replay = stages.load_stage_data(recipe, training)
    trainer = stages.build_trainer(recipe, training, model, train, evaluation, replay, stage="crft")
    for callback in callbacks or []:
        trainer.add_callback(callback)
    return recipe, trainer, resume


def interrupt(base: str, output: Path, files: dict[str, str], *flags: str, step: int = 5) -> None:
    """Starts a run and ends it at the beginning of a step."""
    from faulty_runs import at

    def stop() -> None:
        raise Stop

    _, trainer, resume = start(base, output, files, *flags, callbacks=[at(step, "on_step_begin", stop)])
    try:
        trainer.train(resume_from_checkpoint=resume)
    except Stop:
        pass
    else:
        raise AssertionError("the run was not interrupted")
