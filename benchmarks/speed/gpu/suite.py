"""The parts of the GPU benchmark. Each keeps its time limit, and one that fails does not stop the others."""

from __future__ import annotations

import argparse
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..data import make_tokenizer, only_fitting
from . import tables
from .flags import PARTS, processes_of
from .flops import Work, distinct_work
from .races import Races
from .rows import load_rows, take_distinct
from .runs import Job
from .sides import FAST, FEATURES, FILLING, MAIN_SIDES, PLAIN, TRL, TRL_BEST, Feature, Side, by_importance, make_sides
from .workers import Deadline, Workers


class Suite(Races):
    """
    Runs parts, prints their tables, and writes them into `--output`.

    Args:
        args (`argparse.Namespace`): The parsed command line.
        workers (`Workers`): The processes; those of the first part may have been started.
    """

    def __init__(self, args: argparse.Namespace, workers: Workers):
        super().__init__(args)
        self.workers = workers
        num_pairs = args.pairs_per_step * (args.steps + 3)  # with the profiled step and those of a cold process
        found = {name: load_rows(name, args.data, num_pairs) for name in ("dsp", "helpful")}
        self.tokenizer = make_tokenizer(list(found.values()), self.folder / "tokenizer")
        self.rows = {name: only_fitting(rows, self.tokenizer, args.max_length) for name, rows in found.items()}
        self.sides = make_sides(args.device)

    def run(self) -> int:
        """Runs the parts asked for and returns the exit code."""
        for part in self.args.part or PARTS:
            self.begin(part)
            self.emit(self.header(self.rows.values()))
            began = time.monotonic()
            self.workers.deadline = Deadline(self.args.time_limit)
            kind, _, name = part.partition("-")
            try:
                with self.workers as workers:
                    workers.start(*processes_of(part, self.args.threads))
                    getattr(self, kind)(workers, *([name] if name else []))
            except Exception as error:
                self.failed.append(part)
                self.emit(f"\nPart `{part}` stopped: {error}\n")
                traceback.print_exc()
            self.emit(f"\nPart `{part}`: {time.monotonic() - began:.0f} s.\n")
        if self.failed:
            self.say(f"not whole: {', '.join(dict.fromkeys(self.failed))}")
        return 1 if self.failed else 0

    # ---- parts ----

    def search(self, workers: Workers, name: str) -> None:
        """Finds the best micro-batch of each side with one measured step at each size."""
        sizes = sorted(size for size in self.args.micro_batches if self.args.pairs_per_step % size == 0)
        # The first run of a process also loads kernels and compiles; sizes are to be compared without that.
        jobs = {size: self.job(name, size, steps=2, colder=2 * (size == sizes[0])) for size in sizes}
        found: dict[str, dict[int, float]] = {}
        best = {}
        with self.as_far_as_time_goes():
            for side in by_importance(self._searched()):
                rates = found[side.name] = {}  # filled as it goes: the table has it even if time runs out
                self.rates_of(workers, side, jobs, rates)
                workers.end(side.name)
                if rates:
                    best[side.name] = max(rates, key=rates.__getitem__)
                self.keep(best)
        table = [
            [side.name, *(f"{found[side.name][size]:.1f}" if size in found[side.name] else "-" for size in sizes)]
            for side in self._searched()
            if side.name in found
        ]
        head = ("side", *(f"{size} pairs" for size in sizes))
        note = f"-: out of memory there or at a smaller size, or not measured. {self.spent.note()}"
        self.emit(tables.markdown(f"Micro-batches, {name}: pairs/s of one step", head, table, note))

    def train(self, workers: Workers, name: str) -> None:
        """Times training on all main sides, interleaved."""
        self._race(workers, name, [self.sides[key] for key in MAIN_SIDES], (TRL, TRL_BEST), f"Training, {name}")

    def features(self, workers: Workers, name: str) -> None:
        """Times training on the fast side without each of its features: layout, attention, casts."""
        self._without(workers, name, FEATURES[:3])

    def kernels(self, workers: Workers, name: str) -> None:
        """The same for its other features: fused kernels, compilation, full micro-batches."""
        self._without(workers, name, FEATURES[3:])

    def evaluate(self, workers: Workers, name: str) -> None:
        """Times evaluation with TRL and both of our sides, each at the best of the batch sizes tried."""
        sides = [self.sides[key] for key in (TRL, PLAIN, FAST)]
        jobs: dict[str, Job] = {}
        size = min(self.args.micro_batches)
        tried = {
            batch: self.job(name, size, steps=1, evaluation=True, batch=batch, colder=int(batch == size))
            for batch in self.args.micro_batches
        }
        with self.as_far_as_time_goes():
            for side in by_importance(sides):
                rates: dict[int, float] = {}
                self.rates_of(workers, side, tried, rates)
                if rates:
                    jobs[side.name] = replace(tried[max(rates, key=rates.__getitem__)], warm_up=1)
        sizes = {key: job.more["per_device_eval_batch_size"] for key, job in jobs.items()}
        runs = self.repeat(workers, [side for side in sides if side.name in jobs], jobs.__getitem__)
        self._speed_table(name, f"Evaluation, {name}", sides, runs, sizes, (TRL,), backward=False)

    def score(self, workers: Workers) -> None:
        """Times best-of-16 with RewardScorer and with the pipeline at its best batch size, both in bf16."""
        from .score import ScoreJob

        args = self.args
        job = ScoreJob(
            self.rows["helpful"],
            str(self.folder / "tokenizer"),
            args.shape,
            args.device,
            args.max_length,
            args.score_rows,
            args.repeats,
            max(20.0, workers.deadline.left() - 60),
        )
        found = self.timed(workers, self.sides[FAST], job, call="speed.gpu.score:run")
        self.keep(found)
        best = found["best"]
        trials = ", ".join(f"{size}: {rate:.0f}" for size, rate in found["trials"].items())
        rows = [[f"pipeline, batch size {best}", tables.spread(found["pipeline"], 0), "1"]]
        gains = [one / other for one, other in zip(found["scorer"], found["pipeline"])]
        rows.append(["RewardScorer", tables.spread(found["scorer"], 0), tables.spread(gains)])
        dtype = "bf16" if args.device == "cuda" else "fp32"
        note = (
            f"{found['rows']} rows of {found['prompts']} prompts, tokenization included, {dtype}. Rows/s of the pipeline by batch "
            f"size: {trials}. Largest difference of two rewards: {found['difference']:.1e} of their spread. {self.spent.note()}"
        )
        self.emit(tables.markdown("Scoring, best-of-16", ("side", "rows/s", "x pipeline"), rows, note))

    def memory(self, workers: Workers) -> None:
        """Measures peak memory of the main sides at 32 pairs per micro-batch."""
        size = min(32, self.args.pairs_per_step)
        more = {"max_tokens_per_batch": None}
        found: dict[str, dict[str, Any]] = {}
        with self.as_far_as_time_goes():
            for side in by_importance(self.sides[key] for key in MAIN_SIDES):
                run = self.try_run(workers, side, self.job("dsp", size, steps=2, more={} if side.trl else more))
                workers.end(side.name)
                if run:
                    found[side.name] = run
        self.keep(found)
        base = found.get(TRL)
        rows = [
            [
                name,
                f"{run['peak'] / 2**30:.2f}",
                f"{run['peak'] / base['peak']:.2f}" if base and base["peak"] else "",
                f"{(run['peak'] - run['before']) / 2**30:.2f}",
            ]
            for name, run in ((name, found[name]) for name in MAIN_SIDES if name in found)
        ]
        head = ("side", "peak GiB", "x TRL", "above the weights")
        self.emit(
            tables.markdown(f"Peak memory, training, dsp, {size} pairs a micro-batch", head, rows, self.spent.note())
        )

    def profile(self, workers: Workers) -> None:
        """Profiles where device and host time of one step go."""
        sizes = self.sizes("dsp")
        kept = {}
        with self.as_far_as_time_goes():
            for name in (FAST, TRL_BEST):
                job = self.job("dsp", sizes[name], steps=3, profiled=True, with_host=True)
                run = self.try_run(workers, self.sides[name], job)
                if run:
                    kept[name] = run["profile"]
                    self.keep(kept)
                    self.emit(tables.profile_tables(name, run["profile"], run["unprofiled"]))
        self.emit(self.spent.note())

    # ---- helpers of the parts ----

    def _searched(self) -> list[Side]:
        """The sides to search a size for. A fast side that finds its own size is searched with that feature off."""
        found = [self.sides[key] for key in MAIN_SIDES]
        sized = f"{FAST}, without {FILLING}"
        return [self.sides[sized] if side.fills and sized in self.sides else side for side in found]

    def _without(self, workers: Workers, name: str, features: Sequence[Feature]) -> None:
        names = [feature.name for feature in features]
        sides = [side for key, side in self.sides.items() if key == FAST or set(names) & set(side.switched_off)]
        self._race(workers, name, sides, (FAST,), f"Training, {name}: the fast side without {', '.join(names)}")

    def job(
        self,
        name: str,
        size: int,
        *,
        steps: int | None = None,
        seed: int = 0,
        profiled: bool = False,
        with_host: bool = False,
        evaluation: bool = False,
        batch: int | None = None,
        colder: int = 0,
        more: dict[str, Any] | None = None,
    ) -> Job:
        """
        A job on a set, with the same rows for all sides. `size` and `batch` are pairs per train and eval batch;
        `colder` steps (or evaluations) more are not counted.
        """
        args = self.args
        steps = (args.steps if steps is None else steps) + (0 if evaluation else colder)
        count = args.pairs_per_step * (args.steps if evaluation else steps + profiled)
        more = (more or {}) | ({"per_device_eval_batch_size": batch} if batch else {})
        return Job(
            rows=take_distinct(self.rows[name], count),
            tokenizer=str(self.folder / "tokenizer"),
            shape=args.shape,
            device=args.device,
            max_length=args.max_length,
            pairs_per_step=args.pairs_per_step,
            micro_batch=size,
            steps=steps,
            output_dir=str(self.folder / "run"),
            seed=seed,
            profiled=profiled,
            with_host=with_host,
            evaluation=evaluation,
            warm_up=1 + colder,
            more=more,
        )

    def _race(self, workers: Workers, name: str, sides: list[Side], bases: tuple[str, ...], title: str) -> None:
        sizes = self.sizes(name)
        repeats: dict[str, int] = dict.fromkeys(self.sides, 0)

        def job_of(key: str) -> Job:
            repeats[key] += 1
            first = repeats[key] == 1
            return self.job(name, sizes[key], seed=repeats[key], profiled=first, colder=int(first))

        runs = self.repeat(workers, sides, job_of)
        title = f"{title}, {self.args.pairs_per_step} pairs a step"
        self._speed_table(name, title, sides, runs, sizes, bases, backward=True)

    def _speed_table(
        self,
        name: str,
        title: str,
        sides: list[Side],
        runs: dict[str, list[dict[str, Any]]],
        sizes: dict[str, int],
        bases: tuple[str, ...],
        *,
        backward: bool,
    ) -> None:
        self.keep(runs)
        config = self.job(name, 1).setting(self.tokenizer).config()
        chosen = {side.name: side for side in sides}
        rows = tables.speed_rows(
            chosen, runs, sizes, config, self._distinct(name), self.args.peak_tflops, backward=backward, bases=bases
        )
        left_out = [f"{side.name}: without {reason}." for side in sides for reason in side.left_out]
        note = ["Tokens and MFU by formula: see `speed/gpu/flops.py`.", *left_out, self.spent.note()]
        self.emit(tables.markdown(title, tables.speed_head(bases), rows, " ".join(note)))

    def _distinct(self, name: str) -> dict[bool, tuple[Work, int]]:
        part = self.job(name, 1).rows
        texts = [[self._ids(prompt + text) for text in completions] for prompt, completions in part.groups]
        return {trimmed: (distinct_work(texts, trimmed=trimmed), part.num_pairs) for trimmed in (False, True)}

    def _ids(self, text: str) -> list[int]:
        return [*self.tokenizer(text)["input_ids"], self.tokenizer.eos_token_id]
