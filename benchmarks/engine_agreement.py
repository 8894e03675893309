"""
Do all engines compute the same? Runs the recipes with one seed on one process, two DDP processes, and two ZeRO-3
processes with parameters and optimizer offloaded. No GPU is needed.

    python benchmarks/engine_agreement.py --output outputs/engines

Each engine is launched once with the repository's launch config. The runs are GRFT and CRFT, and between them cover K
responses, the LM loss, shared prompts, a tied LM head, LoRA and bf16. Each run reports the engine that it ran on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml


ROOT = Path(__file__).parents[1]
CONFIGS = {"one process": "cpu", "DDP": "multi_gpu", "ZeRO-3 offload": "zero3_offload"}
TOLERANCE = 1e-4  # for the loss of a step; pairs with a smaller margin may be ranked either way

HH = {"source": "hh", "fraction": 0.3}
GENERAL = {
    "helpful": {**HH, "path": "data/samples/hh/helpful-base"},
    "harmless": {**HH, "path": "data/samples/hh/harmless-base"},
}
TESTS = {
    **GENERAL,
    "gpt4llm": {"path": "data/samples/gpt4llm.test.json", "source": "gpt4llm", "layout": "ranked", "fraction": 0.3},
}
RANKED = {"source": "gpt4llm", "path": "data/samples/gpt4llm.train.json", "layout": "ranked"}
DSP = {"source": "dsp", "domain": "literature", "layout": "ranked"}
DSP_TRAIN = {"dsp": {**DSP, "path": "data/samples/dsp.train.json"}}
DSP_TESTS = {"dsp": {**DSP, "path": "data/samples/dsp.test.json"}, "helpful": TESTS["helpful"]}
GRFT = {"batch_layout": "shared", "learning_rate": 1e-3, "head_learning_rate": 1e-2}
CRFT = {"batch_layout": "shared", "pair_weighting": "prompt", "learning_rate": 1e-4}
LORA = {"use_peft": "true", "lora_r": 8, "learning_rate": 1e-3, "head_learning_rate": 3e-3}
# name -> stage, base, training sets, test sets, flags
RUNS: dict[str, tuple[str, str, dict, dict, dict]] = {
    "grft": ("grft", "llama", GENERAL, TESTS, GRFT),
    "crft": ("crft", "{output}/grft", DSP_TRAIN, DSP_TESTS, CRFT),
    "tied": (
        "grft",
        "qwen3-tied",
        {"gpt4llm": RANKED},
        TESTS,
        {"batch_layout": "plain", "learning_rate": 1e-3, "per_device_train_batch_size": 1},
    ),
    "lora": ("crft", "{output}/tied", DSP_TRAIN, DSP_TESTS, LORA),
    "bf16": ("grft", "llama", GENERAL, {"helpful": TESTS["helpful"]}, {"bf16": "true", "learning_rate": 1e-3}),
}
COMMON = {"pairs_per_step": 16, "per_device_train_batch_size": 4, "lm_loss_coef": 0.1, "max_length": 128}
COMMON |= {"logging_steps": 1, "eval_strategy": "no", "eval_on_start": "false", "save_strategy": "no", "seed": 42}
COMMON |= {
    "warmup_steps": 0,
    "general_replay_fraction": 0,
    "anchor_coef": 0,
    "disable_tqdm": "true",
    "allow_overlap": "true",
}


def bases(folder: Path) -> None:
    """Builds the two base models that all engines start from."""
    from rm_toolkit.data.mixture import load_datasets
    from rm_toolkit.testing import build_tiny_model, train_tokenizer

    rows = load_datasets({"gpt4llm": {**RANKED, "path": str(ROOT / RANKED["path"])}}, "train")["gpt4llm"]
    texts = [row["prompt"] + text for row in rows for text in row["completions"]]
    shapes = {"llama": {}, "qwen3-tied": {"architecture": "qwen3", "tie_word_embeddings": True}}
    for name, shape in shapes.items():
        tokenizer = train_tokenizer(texts, folder / name, vocab_size=1024)
        build_tiny_model(folder / name, len(tokenizer), hidden_size=64, **shape)


def run_here(folder: Path, output: Path, name: str, steps: int, *, check: bool, use_cpu: bool) -> dict[str, Any]:
    """Does one of `RUNS` in this process, with the functions that the recipes use; returns its report."""
    from datasets import Dataset

    from rm_toolkit.training import stages
    from rm_toolkit.training.engines import read_engine
    from rm_toolkit.training.recipe import parse_recipe

    stage, base, train, tests, flags = RUNS[name]
    base = base.format(output=output) if "{" in base else str(folder / base)
    flags = {"model_name_or_path": base, "output_dir": str(output / name), "max_steps": steps, **COMMON, **flags}
    flags["use_cpu"] = str(use_cpu).lower()
    flags |= {"train_datasets": json.dumps(train), "eval_datasets": json.dumps(tests), "domain": "literature"}
    if stage == "grft":
        flags["tiny_base"] = "{}"
    words = [str(word) for key, value in flags.items() for word in (f"--{key}", value)]
    recipe, training, model = parse_recipe(ROOT / "recipes" / "tiny" / f"{stage}.yaml", words)
    trainer = stages.build_trainer(recipe, training, model, *stages.load_stage_data(recipe, training), stage=stage)
    if not check:  # it starts a fresh process each time
        trainer.reload_check = lambda: 0
    stages.run_stage(trainer, recipe, None)
    margins = {}
    for test, data in trainer.eval_dataset.items():
        rewards = trainer.compute_rewards(data)
        margins[test] = (rewards[data.better].astype(float) - rewards[data.worse]).tolist()
    (prompt, first), (_, second) = trainer.sample_texts[:2]
    row = Dataset.from_list([{"prompt": prompt, "chosen": first, "rejected": second}])
    data = trainer._prepare_dataset(row, trainer.processing_class, trainer.args, "samples")
    rewards = trainer.compute_rewards(data)
    optimizer = trainer.optimizer
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return {
        "engine": dataclasses.asdict(read_engine(trainer.accelerator)),
        "optimizer": type(optimizer).__name__,
        "layout": trainer.batch_layout,
        "weights": where_weights_are(trainer.model),
        "losses": [log["loss"] for log in trainer.state.log_history if "loss" in log],
        "lm_losses": [log["lm_loss"] for log in trainer.state.log_history if "lm_loss" in log],
        "metrics": trainer.results(),
        "margins": margins,
        "samples": [
            [prompt + first, float(rewards[data.better[0]])],
            [prompt + second, float(rewards[data.worse[0]])],
        ],
    }


def where_weights_are(model: Any) -> dict[str, Any]:
    """Number of weights that this process holds (`held`), their total number (`whole`), and devices of the shards."""
    for module in model.modules():
        if hasattr(module, "reshard"):  # FSDP leaves the last unit gathered after an evaluation
            module.reshard()
    held = whole = 0
    devices = set()
    for parameter in model.parameters():
        part = getattr(parameter, "ds_tensor", None)  # ZeRO-3
        if part is None:
            part = getattr(parameter, "_local_tensor", parameter)  # FSDP
        held += part.numel()
        whole += getattr(parameter, "ds_numel", parameter.numel())
        devices.add(part.device.type)
    return {"held": held, "whole": whole, "devices": sorted(devices)}


def work(arguments: argparse.Namespace) -> None:
    """What each process of a launch does: all runs, one after the other."""
    from rm_toolkit.training.runtime import run_main, silence_launch_noise

    folder, output, steps, names = arguments.work, arguments.output, arguments.steps, arguments.runs

    @run_main
    def main() -> None:
        silence_launch_noise()
        results = {}
        for name in names:
            begin = time.time()
            results[name] = run_here(
                folder, output, name, steps, check=name in arguments.check, use_cpu=arguments.use_cpu
            )
            results[name]["seconds"] = time.time() - begin
            results[name]["peak_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        rank = os.environ.get("RANK", "0")
        (output / f"process-{rank}.json").write_text(json.dumps(results), encoding="utf-8")

    main()


def launch(
    engine: str,
    folder: Path,
    steps: int,
    names: list[str],
    *,
    check: list[str] | None = None,
    config: str | None = None,
    overrides: dict[str, Any] | None = None,
    script: Path = Path(__file__),
) -> str:
    """
    Launches some of `RUNS` on an engine, by default in two CPU processes, and returns what was printed. The launch
    config is `config` or, by default, that of the engine in `CONFIGS`. The models of the runs in `check` (default:
    all) get the reload check in a fresh process.
    """
    path = ROOT / "accelerate_configs" / f"{config or CONFIGS[engine]}.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    if engine != "one process":
        values |= overrides or {"use_cpu": True, "num_processes": 2}
        values["main_process_port"] = 0
    output = folder / engine.replace(" ", "-")
    output.mkdir(parents=True)
    (output / "accelerate.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--config_file"]
    command += [output / "accelerate.yaml", script, "--work", folder, "--output", output, "--steps", steps]
    command += ["--use-cpu"] * values["use_cpu"]
    command += ["--check", *(names if check is None else check), "--runs", *names]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment["HF_DATASETS_CACHE"] = str(folder / "cache")
    result = subprocess.run([*map(str, command)], cwd=ROOT, env=environment, capture_output=True, text=True)
    printed = result.stdout + result.stderr
    (output / "printed.txt").write_text(printed, encoding="utf-8")
    if result.returncode:
        raise SystemExit(f"{engine} ended with {result.returncode}:\n{printed[-6000:]}")
    return printed


def read_results(folder: Path, engine: str) -> list[dict[str, Any]]:
    """Results of an engine, one item per process."""
    files = sorted((folder / engine.replace(" ", "-")).glob("process-*.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in files]


def agreement(expected: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """
    Compares a run with the one-process run: differences of the `losses` and their largest (`loss`), correct pairs of
    both and all pairs by test set (`counts`), and set, number and margins of pairs too close to count (`excepted`).
    """
    differences = [abs(a - b) for a, b in zip(expected["losses"], found["losses"], strict=True)]
    counts, excepted = {}, []
    for name, margins in expected["margins"].items():
        right = [0, 0]
        for number, pair in enumerate(zip(margins, found["margins"][name], strict=True)):
            if min(map(abs, pair)) < TOLERANCE:
                excepted.append((name, number, *pair))
                continue
            right = [count + (margin > 0) for count, margin in zip(right, pair)]
        counts[name] = (*right, len(margins))
    return {"loss": max(differences), "losses": differences, "counts": counts, "excepted": excepted}


def report(folder: Path) -> None:
    """Prints the table."""
    from rm_toolkit.output.console import console

    alone = read_results(folder, "one process")[0]
    rows, excepted = [], []
    for engine in CONFIGS:
        results = read_results(folder, engine)
        for name, run in results[0].items():
            compared, kind = agreement(alone[name], run), run["engine"]
            stage = "-" if kind["zero_stage"] is None else f"{kind['zero_stage']} ({'+'.join(kind['offload'])})"
            counts = ", ".join(f"{test} {b} of {n}" for test, (_, b, n) in compared["counts"].items())
            same = all(a == b for a, b, _ in compared["counts"].values())
            rows.append(
                [
                    engine,
                    name,
                    kind["distributed_type"],
                    str(kind["num_processes"]),
                    stage,
                    run["optimizer"],
                    f"{run['weights']['held'] / run['weights']['whole']:.2f}",
                    f"{compared['loss']:.1e}",
                    f"{counts}: {'same' if same else 'OTHERS'}",
                    str(len(compared["excepted"])),
                    f"{max(process[name]['peak_gb'] for process in results):.2f}",
                ]
            )
            excepted += [(engine, name, *pair) for pair in compared["excepted"]]
    headings = ["engine", "run", "read inside", "processes", "ZeRO", "optimizer", "weights held", "largest loss diff."]
    headings += ["correct pairs", "excepted", "peak GB per process"]
    for row in (headings, ["---"] * len(headings), *rows):
        console.print("| " + " | ".join(row) + " |")
    for engine, name, test, number, one, other in excepted:
        console.print(f"excepted: {engine}, {name}, {test}, pair {number}: margin {one:+.2e} alone, {other:+.2e}")
    for name, run in alone.items():
        console.print(f"loss of {name}, one process: " + " ".join(f"{loss:.5f}" for loss in run["losses"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="new folder for models and results")
    parser.add_argument("--steps", type=int, default=10, help="optimizer steps per run")
    parser.add_argument("--runs", nargs="+", default=list(RUNS), choices=list(RUNS), help="runs to do (default: all)")
    parser.add_argument("--use-cpu", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--check", nargs="*", default=[], help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work is not None:
        work(arguments)
        return
    folder = arguments.output.absolute()
    if folder.exists():
        parser.error(f"{folder} already exists; choose a new folder")
    bases(folder)
    for engine in CONFIGS:
        launch(engine, folder, arguments.steps, arguments.runs)
    report(folder)


if __name__ == "__main__":
    main()
