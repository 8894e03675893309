"""
Pairs per second of TRL's RewardTrainer and of this toolkit: same weights, rows, dtype, kernel, optimizer and threads.

    python benchmarks/throughput.py                                                # CPU, Llama of 12M parameters
    python benchmarks/throughput.py --device cuda --shape 1B                       # one GPU, all parts
    python benchmarks/throughput.py --device cuda --shape 1B --part train-dsp      # a part, under 4.5 minutes

On a GPU, the benchmark runs in parts (`--part`), each within `--time-limit`, and writes tables and numbers into the
folder `--output`. Its sides, measurements and MFU formula are in `speed/gpu`.

This file is the CPU benchmark. Where a micro-batch is one pair, as in the paper, the fast path may instead fill the
memory that one pair can take: `max_tokens_per_batch` = 2 x `max_length`. Pairs per step are the same on all sides.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    from speed.gpu.flags import add_arguments

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="cuda runs in bf16 autocast")
    parser.add_argument("--shape", default=None, help="12M, 28M, 1B or 7B; default 12M on a CPU, 1B on a GPU")
    parser.add_argument("--sets", nargs="+", default=["dsp", "helpful"], choices=["dsp", "helpful"])
    parser.add_argument("--batches", nargs="+", type=int, default=[8, 1], help="pairs per micro-batch")
    parser.add_argument("--pairs", type=int, default=64, help="pairs in a timed training run")
    parser.add_argument("--repeats", type=int, default=3, help="interleaved repeats")
    parser.add_argument(
        "--threads",
        type=int,
        default=None,
        help="CPU threads of a process; use no more than there are idle cores (default: 1; on a GPU, the cores over the "
        "processes that start at once)",
    )
    parser.add_argument("--max-length", type=int, default=512, help="tokens per text")
    parser.add_argument(
        "--parts",
        nargs="+",
        default=["training", "lm", "evaluation", "tokenisation", "memory", "flops"],
        help="which measurements to make",
    )
    parser.add_argument("--output", type=Path, default=None, help="report file; on a GPU a folder")
    parser.add_argument("--memory-of", default=None, help=argparse.SUPPRESS)  # one side, in a process of its own
    add_arguments(parser)
    args = parser.parse_args(argv)
    if args.device == "cuda" or args.part:
        for name, instead in (("sets", "part"), ("parts", "part"), ("batches", "micro-batches"), ("pairs", "steps")):
            if getattr(args, name) != parser.get_default(name):
                parser.error(f"--{name} is of the CPU's benchmark; in the GPU's, give --{instead}")
    args.shape = args.shape or ("12M" if args.device == "cpu" else "1B")
    if args.device == "cpu":
        args.threads = args.threads or 1
    return args


def main(argv: list[str] | None = None) -> None:
    """Runs the measurements asked for and prints the report as it grows."""
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    args = parse(argv)
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    warnings.filterwarnings("ignore")
    if args.device == "cuda" or args.part:
        sys.exit(run_parts(args))
    os.environ.setdefault("OMP_NUM_THREADS", str(args.threads))
    import datasets
    import torch
    import transformers

    torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    datasets.disable_caching()
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args, Path(folder))
        if args.memory_of:
            print(bench.own_memory(args.memory_of))
            return
        bench.run()


def run_parts(args: argparse.Namespace) -> int:
    """Runs the GPU benchmark. The processes of its first part import while this one does."""
    from speed.gpu.flags import PARTS, processes_of
    from speed.gpu.workers import Workers, quiet

    number, threads = processes_of((args.part or PARTS)[0], args.threads)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    with Workers(args.in_process) as workers:
        workers.start(number, threads)
        from speed.gpu.suite import Suite

        quiet(threads)
        return Suite(args, workers).run()


class Bench:
    """The CPU benchmark: keeps rows, tokenizer and settings, and prints one table after another."""

    def __init__(self, args: argparse.Namespace, folder: Path):
        from speed import data

        self.args, self.folder = args, folder
        sets = [data.load_rows(name) for name in args.sets]
        self.tokenizer = data.make_tokenizer(sets, folder / "tokenizer")
        self.rows = {rows.name: data.only_fitting(rows, self.tokenizer, args.max_length) for rows in sets}

    def setting(self, pairs_per_batch: int, **options):
        """The setting shared by both sides. A step is 8 pairs, or 16 with one pair per micro-batch."""
        from speed.contenders import Setting

        return Setting(
            tokenizer=self.tokenizer,
            shape=self.args.shape,
            device=self.args.device,
            max_length=self.args.max_length,
            pairs_per_batch=pairs_per_batch,
            pairs_per_step=max(pairs_per_batch, 16 if pairs_per_batch == 1 else 8),
            output_dir=str(self.folder / "out"),
            **options,
        )

    def run(self) -> None:
        """Makes every measurement that was asked for."""
        from speed import report

        args = self.args
        sources = ", ".join(f"{rows.name} = {rows.origin}" for rows in self.rows.values())
        command = " ".join(["python benchmarks/throughput.py", *sys.argv[1:]])
        self.emit(report.header(command, args.device, args.shape, args.threads, sources), first=True)
        for part in args.parts:
            getattr(self, part)()

    def emit(self, text: str, first: bool = False) -> None:
        """Prints a part of the report, and appends it to the `--output` file if there is one."""
        print(text, flush=True)
        if self.args.output:
            with self.args.output.open("w" if first else "a", encoding="utf-8") as file:
                file.write(text + "\n")

    def say(self, text: str) -> None:
        """Prints progress to stderr."""
        print(f"  {text}", file=sys.stderr, flush=True)

    def training(self) -> None:
        """Training on each set at each micro-batch size, without the LM loss."""
        from speed import contenders, measure, report

        for name, rows in self.rows.items():
            part = rows.take(self.args.pairs)
            for pairs in self.args.batches:
                setting = self.setting(pairs)
                # With one pair per micro-batch, there is nothing to group by length.
                sides = tuple(side for side in contenders.SIDES if pairs > 1 or side != contenders.TRL_GROUPED)
                timings = measure.training(setting, part, sides, self.args.repeats, self.say)
                title = f"Training, {name}, {pairs} pair(s) a micro-batch, {setting.pairs_per_step} a step"
                self.emit(report.timing_table(title, timings, measure.distinct_tokens(setting, part)))
            self.emit(report.planned_table(name, measure.planned_tokens(self.setting(self.args.batches[0]), rows)))

    def lm(self) -> None:
        """Training with the LM loss, on the plain and the fast path; TRL has no LM loss."""
        from speed import contenders, measure, report

        for name, rows in self.rows.items():
            setting = self.setting(self.args.batches[0], lm_loss_coef=0.1)
            part = rows.take(self.args.pairs)
            sides = (contenders.PLAIN, contenders.FAST)
            timings = measure.training(setting, part, sides, self.args.repeats, self.say)
            title = f"Training with the LM loss, {name}, {self.args.batches[0]} pairs a micro-batch"
            self.emit(report.timing_table(title, timings, measure.distinct_tokens(setting, part)))

    def evaluation(self) -> None:
        """Evaluation of each set."""
        from speed import contenders, measure, report

        for name, rows in self.rows.items():
            setting = self.setting(self.args.batches[0])
            part = rows.take(self.args.pairs)
            sides = (contenders.TRL, contenders.PLAIN, contenders.FAST)
            timings = measure.evaluation(setting, part, sides, self.args.repeats, self.say)
            self.emit(report.timing_table(f"Evaluation, {name}", timings))

    def tokenisation(self) -> None:
        """Tokenization of all pairs of each set."""
        from speed import contenders, measure, report

        for name, rows in self.rows.items():
            sides = (contenders.TRL, contenders.FAST)
            timings = measure.tokenization(self.setting(8), rows, sides, self.args.repeats)
            self.emit(report.timing_table(f"Tokenisation, {name} pairs ({rows.num_pairs} rows)", timings))

    def memory(self) -> None:
        """Peak memory of a few training steps, each side in a new process."""
        from speed import contenders, report

        for name in self.rows:
            found = {}
            # The LM head is tied and has no weights of its own: the last row adds only activations.
            lm = f"{contenders.FAST}, LM loss"
            for side in (contenders.TRL, contenders.PLAIN, contenders.FAST, lm):
                options = [
                    "--memory-of",
                    side,
                    "--sets",
                    name,
                    "--shape",
                    self.args.shape,
                    "--device",
                    self.args.device,
                ]
                options += ["--batches", str(self.args.batches[0]), "--max-length", str(self.args.max_length)]
                options += ["--threads", str(self.args.threads)]
                child = subprocess.run(
                    [sys.executable, __file__, *options], capture_output=True, text=True, check=True
                )
                found[side] = float(child.stdout.split()[-1])
                self.say(f"memory {name}, {side}: {found[side]:.0f} MiB")
            self.emit(
                report.memory_table(f"Peak memory, training, {name}, {self.args.batches[0]} pairs a step", found)
            )

    def own_memory(self, side: str) -> float:
        """Peak memory of one side, in this process."""
        from speed import measure

        rows = self.rows[self.args.sets[0]]
        plain_side = side.removesuffix(", LM loss")
        setting = self.setting(self.args.batches[0], lm_loss_coef=0.1 if plain_side != side else 0.0)
        return measure.peak_memory(plain_side, setting, rows.take(24))

    def flops(self) -> None:
        """FLOP/s of the fast path, compared with the stock model and a matrix product."""
        from speed import measure, report

        rows = next(iter(self.rows.values()))
        self.emit(report.flops_table(measure.flops(self.setting(8), rows.take(16), self.args.repeats)))


if __name__ == "__main__":
    main()
