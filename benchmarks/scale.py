"""
How the cost of a run grows with its data, its steps and its processes, on a CPU: planning, start and resume,
tokenization, memory, balance, the loader, and a simulated run of the paper's size. Takes under ten minutes.

    python benchmarks/scale.py
    python benchmarks/scale.py --parts planning start --sizes 10000 1000000
    python benchmarks/scale.py --baseline ../rm_toolkit-0.2.1      # a checkout to compare with

Seconds are CPU time of a process with one thread. This checkout is compared with version 0.2.1 from the git history,
and with TRL where TRL does the same work. The exponent says how a cost grows with the number of pairs: 0 not at all, 1
linearly.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shlex
import subprocess
import sys
import tarfile
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

from speed.balance import Setting, measure, published, repeated
from speed.loader import loader_table
from speed.many_responses import responses_table
from speed.paper_run import paper_table

from rm_toolkit.output.markdown import table


ROOT = Path(__file__).resolve().parents[1]
WORKER = Path(__file__).resolve().parent / "speed" / "scale_worker.py"
BASELINE = "Version 0.2.1"
PARTS = ("planning", "start", "tokenization", "memory", "balance", "responses", "loader", "paper")
# Pairs that are tokenized without --full; more of them take minutes for each side.
MOST_TOKENIZED = 10_000
RESUME_STEP = 10_000
MIB = 1 << 20


def main() -> None:
    """Makes the tables and prints each as soon as it is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure (default: all)")
    add("--sizes", nargs="+", type=int, default=[10_000, 100_000, 1_000_000], metavar="N", help="training pairs")
    add("--ranks", nargs="+", type=int, default=[1, 8, 64, 512], metavar="N", help="numbers of processes (simulated)")
    add("--steps", nargs="+", type=int, default=[64, 512, 16_384], metavar="N", help="pairs per step")
    add(
        "--baseline",
        metavar="DIR",
        help="checkout to compare with (default: 0.2.1 from the git history), or 'none'",
    )
    add("--full", action="store_true", help=f"tokenize more than {MOST_TOKENIZED:,} pairs too (minutes for each side)")
    args = parser.parse_args()
    print(
        f"`{shlex.join(['python', 'benchmarks/scale.py', *sys.argv[1:]])}`, {date.today().isoformat()}, {machine()}\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        sides = find_sides(args.baseline, Path(folder))
        tables = {
            "planning": lambda: planning_table(sides, args.sizes, args.steps),
            "start": lambda: start_table(sides, args.sizes, args.ranks),
            "tokenization": lambda: tokenization_table(sides, args.sizes, args.full),
            "memory": lambda: memory_table(sides, args.sizes),
            "balance": lambda: balance_table(args.ranks),
            "responses": responses_table,
            "loader": lambda: loader_table(settings=(Setting(1, 64), Setting(8, 512)), steps=10),
            "paper": lambda: paper_table(max(args.sizes), per_process=PER_PAIR),
        }
        for part in args.parts:
            print(tables[part](), flush=True)


# Bytes per pair that each process keeps for itself: order, groups and lengths in the plan of an epoch.
PER_PAIR = 40


def machine() -> str:
    """Name of the processor and number of its cores."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores"


def find_sides(baseline: str | None, folder: Path) -> dict[str, Path]:
    """Returns the checkouts to measure, by name; the baseline, if there is one, comes first."""
    if baseline == "none":
        return {"now": ROOT}
    if baseline is not None:
        return {Path(baseline).name: Path(baseline).resolve(), "now": ROOT}
    git = ["git", "-C", str(ROOT)]
    log = subprocess.run([*git, "log", "--format=%H %s"], capture_output=True, text=True, check=False).stdout
    commit = next((line.split()[0] for line in log.splitlines() if line.endswith(f" {BASELINE}")), None)
    if commit is None:
        print(f"The git history has no '{BASELINE}' to compare with; pass a checkout with --baseline DIR.\n")
        return {"now": ROOT}
    archive = folder / "baseline.tar"
    subprocess.run([*git, "archive", "-o", str(archive), commit, "rm_toolkit"], check=True)
    with tarfile.open(archive) as stored:
        stored.extractall(folder / "0.2.1", filter="data")
    return {"0.2.1": folder / "0.2.1", "now": ROOT}


def run(checkout: Path, part: str, **arguments: Any) -> dict[str, Any]:
    """Measures a part in a new process that imports the package from a checkout."""
    env = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(WORKER), part, json.dumps(arguments)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, cwd=WORKER.parent, check=False)
    if done.returncode:
        raise SystemExit(f"{part} {arguments} of {checkout} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def exponent(sizes: list[int], values: list[float]) -> str:
    """Exponent of the growth of the values with the sizes: the slope of a line fitted to their logarithms."""
    points = [(math.log(size), math.log(max(value, 1e-9))) for size, value in zip(sizes, values)]
    if len(points) < 2:
        return ""
    mean = [sum(column) / len(points) for column in zip(*points)]
    above = sum((x - mean[0]) * (y - mean[1]) for x, y in points)
    return f"{above / sum((x - mean[0]) ** 2 for x, _ in points):.2f}"


def by_size(title: str, unit: str, sizes: list[int], lines: dict[tuple[str, str], list[str | float]]) -> str:
    """A table with a row for each quantity and side, a column for each size, and the exponent."""
    rows = []
    for (what, side), values in lines.items():
        numbers = [float(str(value).lstrip("~")) for value in values]
        rows.append(
            [what, side, *(str(v) if isinstance(v, str) else f"{v:.3g}" for v in values), exponent(sizes, numbers)]
        )
    return f"### {title}\n\n{table([unit, '', *(f'{size:,} pairs' for size in sizes), 'exponent'], rows)}\n"


def planning_table(sides: dict[str, Path], sizes: list[int], steps: list[int]) -> str:
    """Milliseconds to plan one step."""
    lines: dict[tuple[str, str], list[Any]] = {}
    for size in sizes:
        for side, checkout in sides.items():
            for what, value in run(checkout, "planning", num_pairs=size, steps=steps).items():
                lines.setdefault((what, side), []).append(value)
    return by_size("Planning a step", "pairs of the step; ms", sizes, dict(sorted(lines.items(), key=_by_step)))


def _by_step(line: tuple[tuple[str, str], list[Any]]) -> tuple[int, str, str]:
    (what, side), _ = line
    return int(what.split()[0]), what, side


def start_table(sides: dict[str, Path], sizes: list[int], ranks: list[int]) -> str:
    """Seconds until the first step of a fresh and of a resumed run is planned, also by number of processes."""
    lines: dict[tuple[str, str], list[Any]] = {}
    for size in sizes:
        for side, checkout in sides.items():
            found = run(checkout, "start", num_pairs=size, num_processes=1, resume_step=RESUME_STEP)
            lines.setdefault(("the first step of an epoch", side), []).append(found["start"])
            about = "~" if found["estimated"] else ""
            resumed = lines.setdefault((f"resuming at step {RESUME_STEP:,}, or the last", side), [])
            resumed.append(f"{about}{found['resume']:.3g}")
    text = by_size("Start and resume, 64 pairs a step", "s", sizes, lines)
    middle, rows = sorted(sizes)[len(sizes) // 2], []
    for side, checkout in sides.items():
        found = [run(checkout, "start", num_pairs=middle, num_processes=n, resume_step=RESUME_STEP) for n in ranks]
        rows.append([side, *(f"{one['start']:.3g}" for one in found)])
    columns = [f"the first step, {middle:,} pairs; s", *(f"processes: {n}" for n in ranks)]
    return f"{text}\n{table(columns, rows)}\n"


def tokenization_table(sides: dict[str, Path], sizes: list[int], full: bool) -> str:
    """Seconds and peak memory of tokenization, compared with TRL."""
    if not full:
        most = min(*sizes, MOST_TOKENIZED)
        sizes = [max(1, most // 4), most]
    lines: dict[tuple[str, str], list[Any]] = {}
    for size in sizes:
        for side, checkout in {"TRL": ROOT, **sides}.items():
            found = run(checkout, "tokenization", num_pairs=size, side="trl" if side == "TRL" else "ours")
            lines.setdefault(("first start, s", side), []).append(found["seconds"])
            lines.setdefault(("peak memory, MiB", side), []).append(found["peak"] / MIB)
            if "again" in found:
                lines.setdefault(("from the cache, s", side), []).append(found["again"])
    return by_size("Tokenization", "", sizes, dict(sorted(lines.items())))


def memory_table(sides: dict[str, Path], sizes: list[int]) -> str:
    """Memory that one and two real processes on one machine need for the data, and an estimate for eight."""
    lines: dict[tuple[str, str], list[Any]] = {}
    for size in sizes:
        for side, checkout in sides.items():
            found = run(checkout, "memory", num_pairs=size, readers=[1, 2])
            more = found["2"] - found["1"]
            eight = ("8 processes, extrapolated", found["1"] + 7 * more)
            for what, value in (("1 process", found["1"]), ("2 processes", found["2"]), eight):
                lines.setdefault((what, side), []).append(max(value, 1) / MIB)
            if side == "now":
                lines.setdefault(("token ids and pairs, once", ""), []).append(found["data"] / MIB)
    return by_size("Memory of a machine", "MiB of token ids and pairs", sizes, lines)


def balance_table(ranks: list[int]) -> str:
    """Work of the busiest process relative to the mean, on published rows; 8 pairs or more per process and step."""
    rows = []
    for name in ("dsp", "helpful"):
        data = published(name)
        for number in ranks:
            for tokens in (None, 4096):
                setting = Setting(number, 64 * number if number < 64 else 8 * number, tokens=tokens)
                enough = repeated(data, 2 * setting.pairs_per_step)
                old, new = (measure(enough, setting, steps=2, version=version) for version in (1, 2))
                cells = (old.process, new.process, new.bound, old.slots, new.slots, new.slots_bound)
                rows.append([name, str(setting), *(f"{value:.3f}" for value in cells), f"{1000 * new.seconds:.1f}"])
    columns = ["rows", "processes x micro-batch"]
    columns += [f"{what}: {side}" for what in ("a step", "each micro-batch") for side in ("0.4.0", "now", "bound")]
    return f"### Busiest process over the mean\n\n{table([*columns, 'planning, ms'], rows)}\n"


if __name__ == "__main__":
    main()
