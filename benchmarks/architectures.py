"""
Tries model families of transformers, tiny and with random weights. Each trains for two steps with the real trainer, is
saved, and is reloaded in another process by the toolkit and by the stock class. The table also shows the layout that
was chosen, and why it was not the shared one.

    python benchmarks/architectures.py
    python benchmarks/architectures.py --families Llama "Gemma 2" --again
    python benchmarks/architectures.py --write

Each family runs in its own processes, so a failure costs only one row. Results are kept in `--output`, and a stopped
run continues from there. `--write` puts the table of all families into `rm_toolkit/models/README.md`. The exit code is
1 if a reward differs, or if a family fails with anything but a clear refusal.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from families import DECODERS, ENCODERS, FAMILIES, Family
from pages import ROOT, made_with, write_between
from reading.models import sentence, train_wordpiece
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, set_seed

from rm_toolkit import RewardModelConfig, RewardModelTrainer, RewardScorer
from rm_toolkit.errors import InputError
from rm_toolkit.models.loading import quiet_loading
from rm_toolkit.models.shared_prompts import choice
from rm_toolkit.output.markdown import table
from rm_toolkit.scoring.reload_check import TOLERANCE, check_texts, read_rewards
from rm_toolkit.testing import train_tokenizer


PAGE = ROOT / "rm_toolkit" / "models" / "README.md"
MAX_LENGTH = 96  # below the smallest default window, so that a family is judged by its attention
PLAIN, NOT_EXACT = "batch_layout: plain", ", because the shared layout is not exact for this model:"
COLUMNS = ("family", "stock class", "layout, and why not shared", "opened again", "by the stock class")


def make_base(family: Family, folder: Path) -> None:
    """Saves a base model of a family with random weights, and a tokenizer."""
    rng = random.Random(3)
    lines = [f"## Human:\n{sentence(rng, 8)}\n\n## Assistant:\n{sentence(rng, 12)}" for _ in range(200)]
    if family.encoder:
        train_wordpiece(lines, folder)
    else:
        train_tokenizer(lines, folder, vocab_size=400)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id")}
    if family.encoder:
        names = ("pad_token_id", "cls_token_id", "sep_token_id")
        special |= {name: getattr(tokenizer, name) for name in names}
    else:
        special["pad_token_id"] = None  # the class's default id may lie outside this small vocabulary
    config = getattr(transformers, family.config)(**family.values, **special, vocab_size=len(tokenizer))
    set_seed(0)
    with quiet_loading():
        (AutoModel if family.encoder else AutoModelForCausalLM).from_config(config).save_pretrained(folder)


def train(family: Family, work: Path) -> dict[str, Any]:
    """Trains and saves; returns class, layout and its reason, and rewards of the model in memory."""
    os.chdir(work)  # so that messages do not contain the path of the temporary folder
    base, target = Path("base"), work / "model"
    make_base(family, base)
    rng = random.Random(5)
    prompts = [f"## Human:\n{sentence(rng, 30)}\n\n## Assistant:\n" for _ in range(4)]
    pairs = [(prompt, sentence(rng, 4), sentence(rng, 5) + " No.") for prompt in prompts for _ in range(4)]
    rows = [{"prompt": prompt, "chosen": better, "rejected": worse} for prompt, better, worse in pairs]
    args = RewardModelConfig(
        output_dir=str(target), use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none", disable_tqdm=True,
        save_strategy="no", logging_strategy="no", max_length=MAX_LENGTH, max_steps=2, learning_rate=1e-3,
        per_device_train_batch_size=8, pooling_type="cls" if family.encoder else "last",
    )  # fmt: skip
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    choice.logger.addHandler(handler)
    choice.logger.setLevel(logging.INFO)
    trainer = RewardModelTrainer(str(base), args, Dataset.from_list(rows))
    before = [value.detach().clone() for value in trainer.model.parameters() if value.requires_grad]
    trainer.train()
    after = [value for value in trainer.model.parameters() if value.requires_grad]
    if not any(not torch.equal(old, new) for old, new in zip(before, after)):
        raise RuntimeError("no weight changed in two steps")
    trainer.save_model()
    texts = check_texts([(row["prompt"], row["chosen"]) for row in rows[::5]], MAX_LENGTH)
    scorer = RewardScorer(trainer.model, trainer.processing_class, device="cpu")
    reason = next((line for line in said if line.startswith(PLAIN)), "")
    return {
        "class": type(trainer.model.base_classifier).__name__,
        "layout": trainer.batch_layout,
        "reason": reason.removeprefix(PLAIN).removeprefix(NOT_EXACT).strip(),
        "texts": texts,
        "rewards": scorer.score([prompt for prompt, _ in texts], [completion for _, completion in texts]),
    }


def reload(found: dict[str, Any], work: Path) -> dict[str, Any]:
    """
    Largest differences from the rewards in memory after reloading: with the toolkit's scorer (`reloaded`), and with
    the stock class and the saved tokenizer, one text at a time (`stock`).
    """
    folder, texts = str(work / "model"), found["texts"]
    scored = RewardScorer(folder, device="cpu").score([prompt for prompt, _ in texts], [text for _, text in texts])
    stock = read_rewards(folder, [prompt + completion for prompt, completion in texts])
    return {name: largest(found["rewards"], other) for name, other in (("reloaded", scored), ("stock", stock))}


def largest(rewards: Sequence[float], others: Sequence[float]) -> float:
    """Largest difference in logits; relative to the reward where its absolute value is above 1."""
    return max(abs(one - other) / max(1.0, abs(one)) for one, other in zip(rewards, others, strict=True))


def _call(function: Callable[..., dict[str, Any]], arguments: tuple, target: Path) -> None:
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        result = function(*arguments)
    except InputError as error:
        result = {"refused": str(error)}
    except Exception as error:
        traceback.print_exc()
        result = {"failed": f"{type(error).__name__}: {str(error)[:300]}"}
    target.write_text(json.dumps(result), encoding="utf-8")


def in_a_process(function: Callable[..., dict[str, Any]], *arguments: Any, work: Path) -> dict[str, Any]:
    """Runs a function in a fork of this process, which has loaded the libraries but no model; returns its result."""
    target = work / f"{function.__name__}.json"
    process = multiprocessing.get_context("fork").Process(target=_call, args=(function, arguments, target))
    process.start()
    process.join()
    if not target.exists():
        return {"failed": f"the process ended with code {process.exitcode}"}
    return json.loads(target.read_text(encoding="utf-8"))


def try_family(family: Family) -> dict[str, Any]:
    """Trains and reloads a family; returns the results for its row."""
    with tempfile.TemporaryDirectory(prefix="architecture-") as temporary:
        work = Path(temporary)
        found = in_a_process(train, family, work, work=work)
        if "rewards" in found:
            found |= in_a_process(reload, found, work, work=work)
    return {key: value for key, value in found.items() if key not in ("texts", "rewards")}


def holds(found: dict[str, Any]) -> bool:
    """Whether a family gives the same rewards everywhere, or is refused with a message."""
    if "refused" in found:
        return True
    return "failed" not in found and all(found[name] <= TOLERANCE for name in ("reloaded", "stock"))


def cells(name: str, found: dict[str, Any]) -> list[str]:
    """The cells of a family's row."""
    if "failed" in found or "refused" in found:
        # Show only the part of a refusal that is about the family, without the model's path and the remedy.
        said = found.get("refused", "").partition(": ")[2].partition(", which")[0] or found.get("refused")
        return [name, "–", f"**failed**: {found['failed']}" if "failed" in found else f"refused: {said}", "–", "–"]
    numbers = [
        f"{found[key]:.1e}" + (" **over**" if not found[key] <= TOLERANCE else "") for key in ("reloaded", "stock")
    ]
    layout = found["layout"] + (f": {found['reason']}" if found["reason"] else "")
    return [name, f"`{found['class']}`", layout, *numbers]


def markdown(results: dict[str, Any]) -> str:
    """The tables of decoders and encoders."""
    parts = []
    for title, families in (("Decoders", DECODERS), ("Encoders", ENCODERS)):
        rows = [cells(family.name, results[family.name]) for family in families if family.name in results]
        parts.append(f"**{title}**\n\n{table(COLUMNS, rows)}")
    return "\n\n".join(parts)


def main(argv: Sequence[str] | None = None) -> int:
    """Tries the remaining families, prints the table and, with `--write`, puts it into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES), metavar="NAME")
    parser.add_argument("--output", type=Path, default=Path("outputs/architectures.json"), help="JSON file of results")
    parser.add_argument("--again", action="store_true", help="try the named families again")
    parser.add_argument("--write", action="store_true", help="write the table into rm_toolkit/models/README.md")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # processes are forked
    results = json.loads(args.output.read_text(encoding="utf-8")) if args.output.exists() else {}
    for name in args.families:
        if name in results and not args.again:
            continue
        begin = time.monotonic()
        results[name] = try_family(FAMILIES[name])
        args.output.parent.mkdir(parents=True, exist_ok=True)
        partial = args.output.with_name(args.output.name + ".partial")
        partial.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        os.replace(partial, args.output)
        print(f"{time.monotonic() - begin:5.1f} s  {' | '.join(cells(name, results[name]))}", flush=True)
    versions = (f"transformers {transformers.__version__}", f"torch {torch.__version__}")
    text = f"{markdown(results)}\n\n{made_with('python benchmarks/architectures.py --write', *versions)}"
    print(text)
    if args.write:
        if missing := [name for name in FAMILIES if name not in results]:
            parser.error(f"--write needs all families; {len(missing)} were not tried yet: {', '.join(missing)}")
        write_between(PAGE, "architectures", text)
    wrong = [name for name in args.families if not holds(results[name])]
    print("\n".join(f"does not hold: {name}" for name in wrong), file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
