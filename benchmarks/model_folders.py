"""
Opens damaged model folders with every command that reads a model, and prints how many attacks each file held against.

    python benchmarks/model_folders.py                                   # all: some 400 attacks, about an hour
    python benchmarks/model_folders.py --commands score push --only tokenizer.json

A command holds if it prints a single `error:` line that names the file and the key, exits with 2, leaves no output
file, and takes at most 20 seconds of CPU time (a minute of wall time) and 1 GiB of extra memory. A command that does
not need the file must work as usual. The reload check of a saved model runs in a fork, because the imports of a fresh
process would take most of the time. The exit code is 1 if any attack did not hold.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import resource
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import types
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from file_damage import change
from folder_attacks import ADAPTER, LOG, Attack, attacks
from folder_commands import ROOT, STAGES, argv_of, build


SOURCES = {"sft": "base", "watch": "base-rm"}  # the folder to attack, where it is not `model`
SECONDS, WAITED, GROWTH = 20, 60, 1 << 30
TOKENIZER = (
    "tokenizer_config.json",
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
WEIGHTS = ("model.safetensors", "lm_head/model.safetensors")
MODEL = ("config.json", "rm_toolkit.json", *TOKENIZER, WEIGHTS[0])
# Command -> the files of a model folder that it needs.
READS = {
    "python": MODEL,
    "score": MODEL,
    "evaluate": MODEL,
    "merge": (*MODEL, WEIGHTS[1]),
    "frontier": (*MODEL, WEIGHTS[1]),
    "calibrate": MODEL,
    "watch": ("rm_toolkit.json", LOG),
    "doctor": (),  # only checks that the folder exists
    "push": MODEL,
    "plan": ("config.json",),
    "inspect": TOKENIZER,
    "grft": MODEL,
    "crft": MODEL,
    "sft": ("config.json", *TOKENIZER, WEIGHTS[0]),
}
# `doubt` launches `grft` twice, which is attacked anyway: tried only on request, with so many times the time limits.
LAUNCHING = {"doubt": 6}
OF_ADAPTER = ("python", "score", "routed", "evaluate", "push", "grft")


@dataclass
class Outcome:
    """How a command ended: exit code (None if killed), output, CPU seconds and bytes of extra memory."""

    code: int | None
    printed: str
    seconds: float
    growth: int

    def judge(self, attack: Attack, command: str, left: list[str]) -> str:
        """Returns `held`, or a few words on what went wrong."""
        lines = [line for line in self.printed.splitlines() if line.strip()]
        if self.code is None or self.seconds > SECONDS * LAUNCHING.get(command, 1):
            return f"took {self.seconds:.0f} s of CPU time" + " and was killed" * (self.code is None)
        if self.growth > GROWTH:
            return f"took {self.growth / (1 << 30):.1f} GiB"
        if self.code == 0:
            read = attack.of_adapter or attack.file in READS.get(command, MODEL if command in LAUNCHING else ())
            return "accepted" if read and not attack.harmless and command not in attack.unread_by else "held"
        if "Traceback" in self.printed:
            return "traceback"
        if self.code != 2:
            return f"exit code {self.code}"
        if len(lines) != 1 or not lines[0].startswith("error: "):
            return f"{len(lines)} lines"
        if left:
            return f"left {left[0]}"
        kind = "safetensors" if attack.file.endswith(".safetensors") else Path(attack.file).name
        if not any(name in lines[0] for name in (kind, *attack.also)):
            return "file not named"
        return "held" if attack.key is None or attack.key in lines[0] else "key not named"


def call(command: str, place: Path, folder: Path) -> int:
    """Runs a command in this process and returns its exit code."""
    from rm_toolkit.scoring import reload_check

    reload_check.subprocess = types.SimpleNamespace(run=read_in_a_fork, DEVNULL=subprocess.DEVNULL)
    if command == "python":
        from rm_toolkit.errors import InputError
        from rm_toolkit.scoring.scorer import RewardScorer

        try:
            RewardScorer(str(folder)).score(["how?"], ["well"])
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        return 0
    argv = argv_of(command, place, folder)
    if command in STAGES:
        sys.argv = [f"{command}.py", *argv[1:]]
        try:
            runpy.run_path(str(ROOT / "recipes" / f"{command}.py"), run_name="__main__")
        except SystemExit as ending:
            return ending.code if isinstance(ending.code, int) else 1 if ending.code else 0
        return 0
    from rm_toolkit.cli import main

    return main(argv)


def read_in_a_fork(command: list[str], **_: Any) -> subprocess.CompletedProcess:
    """Replaces `subprocess.run` in the reload check: reads the rewards of a saved model in a fork of this process."""
    from rm_toolkit.scoring import reload_check

    with tempfile.TemporaryFile() as said:
        child = os.fork()
        if child == 0:
            try:
                os.dup2(said.fileno(), 2)
                folder, request, answer, *trusted = command[3:]
                texts = json.loads(Path(request).read_text())
                rewards = reload_check.read_rewards(folder, texts, trust_remote_code=bool(trusted))
                Path(answer).write_text(json.dumps(rewards))
                os._exit(0)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(1)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said.seek(0)
        return subprocess.CompletedProcess(command, code, "", said.read().decode(errors="replace"))


def forked(command: str, place: Path, folder: Path) -> Outcome:
    """Runs a command in a forked child, which is killed if it takes too long and has a limit on its memory."""
    reading, writing = os.pipe()
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, time.monotonic()
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.dup2(writing, 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
            used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
            resource.setrlimit(resource.RLIMIT_AS, (used + 6 * GROWTH, used + 6 * GROWTH))
            code = call(command, place, folder)
        except SystemExit as ending:
            code = ending.code if isinstance(ending.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stderr.flush()
            os._exit(code)
    os.close(writing)
    chunks: list[bytes] = []
    os.set_blocking(reading, False)
    status = None
    while time.monotonic() - begun < WAITED * LAUNCHING.get(command, 1):
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(reading, 1 << 16):
                chunks.append(chunk)
        ended, status, usage = os.wait4(child, os.WNOHANG)
        if ended:
            break
        time.sleep(0.01)
    else:
        os.kill(child, signal.SIGKILL)
        _, _, usage = os.wait4(child, 0)
        status = None
    with contextlib.suppress(BlockingIOError):
        while chunk := os.read(reading, 1 << 16):
            chunks.append(chunk)
    os.close(reading)
    code = os.waitstatus_to_exitcode(status) if status is not None else None
    printed = b"".join(chunks).decode(errors="replace")
    return Outcome(code, printed, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 - before)


def attack_with(attack: Attack, command: str, place: Path) -> tuple[str, Outcome]:
    """Damages a copy of the model folder, runs the command on it, judges the outcome, and removes the files."""
    source = SOURCES.get(command, "model")
    folder = place / "attacked"
    shutil.copytree(place / source, folder, symlinks=True)
    try:
        if command == "routed":  # an adapter of the model that it is routed on
            change(base_model_name_or_path=str(place / "base-rm"))(folder / ADAPTER / "adapter_config.json")
        attack.apply(folder)
        there = {*os.listdir(folder)}
        outcome = forked(command, place, folder / ADAPTER if attack.of_adapter else folder)
        left = [path.name for path in place.glob("out*")] + sorted({*os.listdir(folder)} - there)
        return outcome.judge(attack, command, left), outcome
    finally:
        shutil.rmtree(folder)
        for path in place.glob("out*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def concerns(attack: Attack, command: str, place: Path) -> bool:
    """Whether an attack applies to a command: it needs the file, or what is damaged in it, to be there."""
    if attack.file == LOG:
        return command == "watch"
    if command in SOURCES and not os.path.lexists(place / SOURCES[command] / attack.file):
        return False
    return command != "sft" or "reward head" not in attack.name


def preload() -> None:
    """Imports what the commands need, so that the forked children need not."""
    for name in ("score", "evaluate", "merge", "push", "plan", "inspect", "calibrate", "watch", "doctor", "doubt"):
        importlib.import_module(f"rm_toolkit.cli.{name}")
    names = "scoring.scorer scoring.files evaluation.evaluator merging.merge merging.frontier hub.models training.stages training.sft"
    for name in (
        *names.split(),
        "training.plan.plan",
        "training.plan.report",
        "inspection.inspector",
        "inspection.report",
    ):
        importlib.import_module(f"rm_toolkit.{name}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", nargs="+", choices=[*READS, *LAUNCHING, "routed"], help="default: all but doubt")
    parser.add_argument("--only", nargs="+", default=[""], help="only attacks whose name contains one of these")
    parser.add_argument("--every", type=int, default=1, help="try only every n-th attack")
    parser.add_argument("--show", action="store_true", help="print every result, not only failures")
    args = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}
    os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "TQDM_DELAY": "5"}
    preload()
    import torch

    torch.set_num_threads(1)
    tried: Counter[str] = Counter()
    held: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        os.environ["HF_HOME"] = str(place / "home")
        build(place)
        base = forked("grft", place, place / "base")
        if base.code != 0:
            sys.exit(f"no model to attack could be trained: {base.printed}")
        shutil.copytree(place / "out", place / "base-rm")
        for path in place.glob("out*"):
            shutil.rmtree(path)
        for attack in [attack for attack in attacks() if any(word in attack.name for word in args.only)][
            :: args.every
        ]:
            for command in OF_ADAPTER if attack.of_adapter else args.commands or READS:
                if (args.commands and command not in args.commands) or not concerns(attack, command, place):
                    continue
                verdict, outcome = attack_with(attack, command, place)
                tried[attack.file] += 1
                held[attack.file] += verdict == "held"
                if verdict != "held" or args.show:
                    line = " | ".join(line for line in outcome.printed.splitlines() if line.strip())
                    print(
                        f"{command}, {attack.name}: {verdict} [{outcome.code}, {outcome.seconds:.1f} s] {line[-400:]}",
                        flush=True,
                    )
    print(f"\n| {'file':<35} | tried | held |\n|{'-' * 37}|-------|------|")
    for name in tried:
        print(f"| {name:<35} | {tried[name]:>5} | {held[name]:>4} |")
    print(f"| {'all':<35} | {tried.total():>5} | {held.total():>4} |")
    return int(tried != held)


if __name__ == "__main__":
    sys.exit(main())
