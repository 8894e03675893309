"""Launches recipes as a user would, with the repository's launch configs, on one process."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml


ROOT = Path(__file__).resolve().parents[3]
# Settings of a short run that logs every step; all others are the recipe's.
SHORT = {
    "max_steps": 12,
    "logging_steps": 1,
    "eval_on_start": "false",
    "eval_strategy": "no",
    "save_strategy": "no",
    "pairs_per_step": 32,
    "per_device_train_batch_size": 16,
    "max_length": 256,
    "learning_rate": 1e-5,
    "lm_loss_coef": 0,
    "overwrite_output_dir": "true",
}
TOLERANCE = 1e-2  # largest difference between engines in the loss of a step
Verdict = tuple[str, str]


class LaunchFailed(RuntimeError):
    """A launch ended with an error."""


def launch(args: argparse.Namespace, name: str, config: str, recipe: str, /, **flags: Any) -> tuple[Path, str]:
    """
    Runs `accelerate launch` with one process.

    Args:
        args (`argparse.Namespace`): The parsed command line of the check.
        name (`str`): Name of the run and of its output folder.
        config (`str`): Name of a launch config of the repository.
        recipe (`str`): `sft`, `grft` or `crft`.
        **flags: Settings of the recipe.

    Returns:
        `tuple[Path, str]`: The output folder, and what was printed.

    Raises:
        `LaunchFailed`: if the exit code is not 0; the message ends with the last lines that were printed.
    """
    folder = args.output / "runs" / name
    values = yaml.safe_load((ROOT / "accelerate_configs" / f"{config}.yaml").read_text(encoding="utf-8"))
    values |= {"num_processes": 1, "use_cpu": args.device == "cpu"}
    written = args.output / "configs" / f"{name}.yaml"
    written.parent.mkdir(parents=True, exist_ok=True)
    written.write_text(yaml.safe_dump(values), encoding="utf-8")
    flags = {"output_dir": str(folder), "disable_tqdm": "true", **flags}
    options = [part for key, value in flags.items() for part in (f"--{key}", *map(str, _listed(value)))]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(written)]
    done = subprocess.run(
        [*command, f"recipes/{recipe}.py", *options], capture_output=True, text=True, cwd=ROOT, check=False
    )
    printed = done.stdout + done.stderr
    print(printed, flush=True)
    if done.returncode:
        raise LaunchFailed(f"{name} ended with exit code {done.returncode}: {printed.strip()[-500:]}")
    return folder, printed


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def losses_of(folder: Path) -> list[float]:
    """The losses of a run, by step."""
    log = json.loads((folder / "training_log.json").read_text(encoding="utf-8"))["log_history"]
    return [entry["loss"] for entry in log if "loss" in entry]


def checked(folder: Path, printed: str) -> str:
    """
    Summarizes a run in words: engine, losses, reload check.

    Raises:
        `LaunchFailed`: if one of them is missing, or if a loss is not finite.
    """
    engine = re.search(r"Engine [^\n;]*", printed)
    reloaded = re.search(r"(\d+) texts", printed[printed.rfind("Saved to") :]) if "Saved to" in printed else None
    losses = losses_of(folder)
    if engine is None or reloaded is None or not losses:
        raise LaunchFailed(f"{folder} lacks its engine's line, the reload check or losses")
    if not all(map(math.isfinite, losses)):
        raise LaunchFailed(f"losses of {folder} are not finite")
    return (
        f"{engine[0].strip()}; {len(losses)} steps, loss {losses[0]:.4f} to {losses[-1]:.4f}; {reloaded[0]} reloaded"
    )


def base_flags(args: argparse.Namespace, **more: Any) -> dict[str, Any]:
    """Flags of a short run on `--model`, or on a tiny Llama that the first run builds."""
    model = args.model or str(args.output / "tiny-llama")
    return {**SHORT, "model_name_or_path": model, "bf16": str(args.device == "cuda").lower(), **more}


def one_process(args: argparse.Namespace) -> Verdict:
    """Does the reference run that the engines are compared with."""
    return "passed", checked(*launch(args, "one-process", "single_gpu", "grft", **base_flags(args)))


def compare_engine(args: argparse.Namespace, config: str) -> Verdict:
    """Does the same run on another engine and compares its losses with the reference run."""
    reference = args.output / "runs" / "one-process"
    if not (reference / "final_eval_results.json").exists():  # written at the end of a run
        one_process(args)
    folder, printed = launch(args, config, config, "grft", **base_flags(args))
    said = checked(folder, printed)
    pairs = list(zip(losses_of(folder), losses_of(reference), strict=True))
    worst = max(abs(one - other) for one, other in pairs)
    verdict = "passed" if worst <= TOLERANCE else "failed"
    return verdict, f"{said}; losses differ from one process by at most {worst:.1e} (limit {TOLERANCE:g})"


def qlora(args: argparse.Namespace) -> Verdict:
    """Trains, saves and reloads an adapter on a 4-bit base model."""
    flags = base_flags(args, use_peft="true", load_in_4bit="true", lora_r=8, learning_rate=1e-4)
    return "passed", checked(*launch(args, "qlora", "single_gpu", "grft", **flags))


def compare_repeats(args: argparse.Namespace) -> Verdict:
    """Checks that two runs with `full_determinism: true` save the same bytes."""
    hashes = []
    for number in (1, 2):
        flags = base_flags(args, full_determinism="true")
        folder, printed = launch(args, f"deterministic-{number}", "single_gpu", "grft", **flags)
        said = checked(folder, printed)
        hashes.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.safetensors"))])
    verdict = "passed" if hashes[0] == hashes[1] and hashes[0] else "failed"
    return verdict, f"weights are {'the same' if hashes[0] == hashes[1] else 'not the same'}, bit for bit; {said}"


def default_recipes(args: argparse.Namespace) -> Verdict:
    """Runs the tiny recipes SFT, GRFT and CRFT unchanged; each starts from the model that the previous one saved."""
    said, base = [], str(args.output / "tiny-llama")
    for stage in ("sft", "grft", "crft"):
        more = {"domain": "literature"} if stage == "crft" else {}
        flags = {"model_name_or_path": base, "overwrite_output_dir": "true", **more}
        folder, _ = launch(args, f"recipe-{stage}", "single_gpu", stage, **flags)
        base = str(folder)
        results = folder / "final_eval_results.json"
        if stage != "sft":
            end = json.loads(results.read_text(encoding="utf-8"))["end"]
            said.append(f"{stage}: " + ", ".join(f"{name} {value['accuracy']:.3f}" for name, value in end.items()))
    return "passed", "accuracy at the end, " + "; ".join(said)


def qwen3(args: argparse.Namespace) -> Verdict:
    """Runs the recipe of Qwen3-0.6B; only model, data and length of the run are changed."""
    model = args.model
    if model is None:
        from rm_toolkit.data.mixture import load_datasets
        from rm_toolkit.testing import build_tiny_model, train_tokenizer

        model = str(args.output / "tiny-qwen3")
        rows = load_datasets(
            {"all": {"path": str(ROOT / "data/samples/hh/helpful-base"), "source": "hh", "layout": "ranked"}}, "train"
        )
        texts = [text for completions in rows["all"]["completions"] for text in completions]
        tokenizer = train_tokenizer(texts, model, vocab_size=2048)
        build_tiny_model(model, len(tokenizer), architecture="qwen3", hidden_size=256, tie_word_embeddings=True)
    data = {
        name: {"path": f"data/samples/hh/{name}-base", "source": "hh", "fraction": 0.5}
        for name in ("helpful", "harmless")
    }
    flags = {
        "config": "recipes/qwen3-0.6b/grft.yaml",
        "model_name_or_path": model,
        "train_datasets": json.dumps(data),
        "eval_datasets": json.dumps(data),
        "max_steps": 6,
        "logging_steps": 1,
        "overwrite_output_dir": "true",
    }
    if args.device == "cpu":
        flags |= {"bf16": "false", "pairs_per_step": 8, "max_steps": 3, "max_length": 256}
    return "passed", checked(*launch(args, "qwen3", "single_gpu", "grft", **flags))
