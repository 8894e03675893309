"""Builds a model folder to attack, and the command lines that read it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from rm_toolkit.scoring.scorer import RewardScorer

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("grft", "crft", "sft")


def build(place: Path, data_format: str = "chat") -> None:
    """Creates a tiny reward model with an adapter (`model/`), its base model (`base/`), recipes, and rows."""
    from peft import LoraConfig
    from transformers import AutoTokenizer

    from rm_toolkit.models.reward_model import RewardModel
    from rm_toolkit.models.saving import save_reward_model
    from rm_toolkit.models.settings import RewardModelSettings
    from rm_toolkit.models.tokenizer import load_tokenizer, prepare_tokenizer
    from rm_toolkit.scoring.scorer import RewardScorer
    from rm_toolkit.testing import build_tiny_model, train_tokenizer

    texts = [f"Human: how are you, number {number}?\n\nAssistant: as well as {number * 7}." for number in range(300)]
    base = place / "base"
    train_tokenizer(texts, base, vocab_size=360)
    tokenizer = AutoTokenizer.from_pretrained(base)
    build_tiny_model(base, len(tokenizer), hidden_size=16, num_heads=2)
    settings = RewardModelSettings(
        max_length=64, data_format=data_format, lineage=[{"stage": "grft", "base": "base", "datasets": {}}]
    )
    model = RewardModel.from_pretrained(str(base), settings, with_lm_head=True)
    tokenizer = prepare_tokenizer(load_tokenizer(str(base)), model.config, max_length=64, data_format=data_format)
    tokenizer.save_pretrained(base)
    model.resize_token_embeddings(len(tokenizer))
    model.add_adapter(LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    save_reward_model(model, place / "model", tokenizer, merge=True)
    for folder in (place / "model", base):
        for name in ("special_tokens_map.json", "added_tokens.json"):
            (folder / name).write_text("{}")
        (folder / "generation_config.json").write_text('{"eos_token_id": 2}')
    rows = [{"prompt": f"number {number}?", "chosen": f"as well as {number}", "rejected": "no"} for number in range(8)]
    unsure = unsure_pairs(RewardScorer(str(place / "model")))
    for stage in STAGES:  # without `tiny_base`, which would build another base model
        lines = (ROOT / "recipes" / "tiny" / f"{stage}.yaml").read_text().splitlines(keepends=True)
        (place / f"{stage}.yaml").write_text("".join(line for line in lines if not line.startswith("tiny_base")))
    tests = [{**row, "prompt": f"another {row['prompt']}"} for row in rows]
    for name, some in (("rows", rows), ("tests", tests), ("unsure", unsure)):
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    (place / "score.jsonl").write_text(json.dumps({"prompt": "how?", "completions": ["well", "no"]}) + "\n")


def unsure_pairs(scorer: RewardScorer) -> list[dict[str, str]]:
    """Pairs that the model ranks correctly four times in five, so that a calibration can be fitted to them."""
    prompts, texts = zip(*((f"number {number}?", [f"as well as {number}", "no"]) for number in range(160)))
    found = []
    for number, (prompt, own, rewards) in enumerate(zip(prompts, texts, scorer.score(prompts, texts))):
        better = (rewards[1] > rewards[0]) ^ (number % 5 == 0)
        found.append({"prompt": prompt, "chosen": own[better], "rejected": own[not better]})
    return found


def argv_of(command: str, place: Path, folder: Path) -> list[str]:
    """The arguments of a command that reads the model in `folder`."""
    out, spec = str(place / "out"), f"{{path: {place / 'rows.jsonl'}, source: jsonl, format: chat}}"
    stage = command if command in STAGES else "grft"
    recipe = ["--config", str(place / f"{stage}.yaml"), "--model_name_or_path", str(folder)]
    for name in ("train", "eval"):
        recipe += [f"--{name}_datasets", json.dumps({name: spec_of(place, "rows" if name == "train" else "tests")})]
    recipe += ["--max_steps", "1"]
    recipe += ["--use_cpu", "true", "--max_length", "64", "--disable_tqdm", "true", "--cpu_threads", "1"]
    recipe += ["--data_format", "chat"]
    pairs = ["--pairs_per_step", "4", "--per_device_train_batch_size", "4"]
    plan = [
        "--config",
        str(place / "grft.yaml"),
        "--accelerate-config",
        str(ROOT / "accelerate_configs/multi_gpu.yaml"),
    ]
    datasets = ["--datasets", f"a={spec}"]
    return {
        "score": ["score", "--model", str(folder), "--input", str(place / "score.jsonl"), "--output", f"{out}.jsonl"],
        "routed": ["score", "--model", str(place / "base-rm"), "--adapter", f"law={folder}", "--domain", "law"]
        + ["--input", str(place / "score.jsonl"), "--output", f"{out}.jsonl"],
        "evaluate": ["evaluate", "--model", str(folder), *datasets, "--output", out, "--resamples", "10"],
        "merge": ["merge", "--general", str(place / "model"), "--customized", str(folder), "--weight", "0.5", "--output", out],
        "frontier": ["merge", "--general", str(place / "model"), "--customized", str(folder), "--frontier", "--weights", "0.5"]
        + ["--general-datasets", f"a={spec}", "--customized-datasets", f"b={spec}", "--output", out],
        "push": ["push", "--model", str(folder), "--repo-id", "me/model", "--preview", out]
        + ["--adapter", "--base-model", "me/base"] * (folder.name == "adapter"),
        "calibrate": ["calibrate", "--model", str(folder), "--datasets", f"a={{path: {place / 'unsure.jsonl'}, source: jsonl, format: chat}}"],
        "watch": ["watch", str(folder), "--output", f"{out}.html", "--once"],
        "doctor": ["doctor", *recipe],
        "doubt": ["doubt", "--folds", "2", "--output", out, *recipe, *pairs],
        "plan": ["plan", *plan, "--model_name_or_path", str(folder), "--pairs_per_step", "128"],
        "inspect": ["inspect", spec, "--tokenizer", str(folder), "--output", out, "--no-word-clouds"],
        "grft": ["grft", "--output_dir", out, *recipe, *pairs],
        "crft": ["crft", "--output_dir", out, *recipe, *pairs],
        "sft": ["sft", "--output_dir", out, *recipe],
    }[command]  # fmt: skip


def spec_of(place: Path, name: str) -> dict[str, str]:
    """The dataset spec of a file of rows, for a recipe."""
    return {"path": str(place / f"{name}.jsonl"), "source": "jsonl", "format": "chat"}
