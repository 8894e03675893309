"""One measured run of one side: training or evaluation. On a GPU, each side has its own process, see `workers.py`."""

from __future__ import annotations

import copy
import gc
import hashlib
import os
import time
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
from transformers import AutoTokenizer
from transformers.trainer_callback import PrinterCallback
from trl import RewardConfig, RewardTrainer

from rm_toolkit.training.config import RewardModelConfig
from rm_toolkit.training.display import RunProgressCallback
from rm_toolkit.training.trainer import RewardModelTrainer

from ..contenders import GroupedRewardTrainer, Setting
from ..data import Rows
from .meters import Recorder, StepClock, covered, device_events, synchronize
from .profile import summary
from .sides import Side, features_of


OUT_OF_MEMORY = "out of memory"


@dataclass(frozen=True)
class Job:
    """
    What to run.

    Args:
        rows (`Rows`): The rows, the same for all sides.
        tokenizer (`str`): Folder of the tokenizer.
        shape (`str`), device (`str`), max_length (`int`), pairs_per_step (`int`): As in
            [`~speed.contenders.Setting`].
        micro_batch (`int`): Pairs per micro-batch.
        steps (`int`): Optimizer steps; the first `warm_up` are not counted. With `evaluation`, measured evaluations.
        warm_up (`int`): Steps (or evaluations) before the measured ones.
        seed (`int`): Seed of the order of rows.
        profiled (`bool`): Whether to profile one more step, for the share of time that the device is busy.
        with_host (`bool`): Whether that profile includes host time.
        evaluation (`bool`): Whether to measure `trainer.evaluate()` instead of training.
        started (`float`, *optional*): Time at which the process started, in seconds since the epoch.
        more (`dict`): Further arguments of the trainer's config.
    """

    rows: Rows
    tokenizer: str
    shape: str
    device: str
    max_length: int
    pairs_per_step: int
    micro_batch: int
    steps: int
    output_dir: str
    warm_up: int = 1
    seed: int = 0
    profiled: bool = False
    with_host: bool = False
    evaluation: bool = False
    started: float | None = None
    more: dict[str, Any] | None = None

    def setting(self, tokenizer: Any) -> Setting:
        names = ("shape", "device", "max_length", "pairs_per_step", "output_dir")
        return Setting(
            tokenizer=tokenizer, pairs_per_batch=self.micro_batch, **{name: getattr(self, name) for name in names}
        )


def run(side: Side, job: Job) -> dict[str, Any]:
    """
    Builds the side's trainer, trains or evaluates, and frees it.

    Returns:
        `dict`: `seconds` of each measured step (or evaluation); `pairs` and `work` of all of them; `peak` bytes, and
            bytes `before` (GPU); `first_step` (seconds from `started`); `busy` share; `losses`; the fingerprint of the
            initial `weights`; seconds of drawing them (`model`), of the rest until training begins (`trainer`; both
            are `build`) and of the `first` step. If memory ran out, only `error`.
    """
    try:
        with features_of(side):
            return _evaluate(side, job) if job.evaluation else _train(side, job)
    except torch.OutOfMemoryError:
        return {"error": OUT_OF_MEMORY}
    finally:
        gc.collect()
        if job.device == "cuda":
            torch.cuda.empty_cache()


def _train(side: Side, job: Job) -> dict[str, Any]:
    began = time.time()
    trainer, start = make_trainer(side, job)
    recorder = Recorder(trainer.model)
    clock = StepClock(job.device, recorder, profiled=job.profiled, with_host=job.with_host)
    trainer.add_callback(clock)
    built = time.time()
    before = torch.cuda.memory_allocated() if job.device == "cuda" else 0
    trainer.train()
    first, last = job.warm_up, len(clock.seconds) - job.profiled
    started = began if job.started is None else job.started
    found = {
        "seconds": clock.seconds[first:last],
        "pairs": job.pairs_per_step * (last - first),
        "work": asdict(clock.work_of(first, last)),
        "batches": clock.ends[last - 1] - clock.ends[first - 1] if first else clock.ends[last - 1],
        "first_step": clock.first_end - started,
        "build": built - began,
        "trainer": built - began - start["model"],
        "first": clock.first_end - built,
        **start,
        "before": before,
        "peak": torch.cuda.max_memory_allocated() if job.device == "cuda" else 0,
        "losses": clock.losses,
        "layout": getattr(trainer, "batch_layout", None),
        "filled": str(trainer.steps.size) if side.fills else None,
    }
    if job.profiled and clock.profile is not None:
        if job.device == "cuda":
            spans = [(begin, end) for _, begin, end in device_events(clock.profile)]
            found["busy"] = covered(spans) / clock.seconds[-1]
        if job.with_host:
            found["profile"] = summary(clock.profile, clock.seconds[-1], job.device)
            found["unprofiled"] = median(clock.seconds[first:last])
    return found


def _evaluate(side: Side, job: Job) -> dict[str, Any]:
    began = time.time()
    trainer, start = make_trainer(side, job)
    built = time.time()
    recorder = Recorder(trainer.model)
    model = trainer.model.to(trainer.args.device)  # training would have moved it
    seconds, begin = [], 0
    for _ in range(job.warm_up + job.steps):
        begin = len(recorder.batches)
        if job.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        synchronize(job.device)
        now = time.perf_counter()
        metrics = trainer.evaluate()
        synchronize(job.device)
        seconds.append(time.perf_counter() - now)
    del model
    return {
        "seconds": seconds[job.warm_up :],
        "pairs": job.rows.num_pairs * job.steps,
        "work": {name: value * job.steps for name, value in asdict(recorder.work(begin)).items()},
        "batches": len(recorder.batches) - begin,
        "peak": torch.cuda.max_memory_allocated() if job.device == "cuda" else 0,
        "accuracy": metrics.get("eval_accuracy"),
        "build": built - began,
        "trainer": built - began - start["model"],
        "first": seconds[0],
        **start,
        "layout": getattr(trainer, "batch_layout", None),
    }


def fingerprint(model: torch.nn.Module) -> str:
    """A hash of the sum and of some values of each parameter, made on the device: all of them would have to be copied."""
    parts = []
    for parameter in model.parameters():
        values = parameter.detach().flatten()
        parts += [values.sum(dtype=torch.float64)[None], values[::9973].double()]
    return hashlib.sha256(torch.cat(parts).cpu().numpy().tobytes()).hexdigest()[:16]


def make_trainer(side: Side, job: Job) -> tuple[Any, dict[str, Any]]:
    """
    Builds the side's trainer and tokenizes its rows. All sides get the same random weights, drawn on the device.

    Returns:
        `tuple[Any, dict]`: The trainer; and the fingerprint of the `weights`, with the seconds that they took (`model`).
    """
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    tokenizer = AutoTokenizer.from_pretrained(job.tokenizer)
    tokenizer.pad_token = tokenizer.unk_token
    setting = job.setting(tokenizer)
    arguments = setting.arguments(job.seed) | side.options | (job.more or {})
    arguments["max_steps"] = -1 if job.evaluation else job.steps + job.profiled
    if job.device == "cpu":
        arguments["bf16"] = False
    few = job.rows.take(job.pairs_per_step)
    training, evaluation = (few, job.rows) if job.evaluation else (job.rows, None)
    began = time.time()
    with torch.device(job.device):
        model = setting.model()
    start = {"weights": fingerprint(model), "model": time.time() - began}
    if side.trl:
        trainer_class = GroupedRewardTrainer if side.by_length else RewardTrainer
        config = RewardConfig(**arguments)
        sets = {"train_dataset": training.pairs(), "eval_dataset": evaluation.pairs() if evaluation else None}
    else:
        trainer_class = RewardModelTrainer
        # Token ids as TRL makes them: BOS, text, EOS. The reward is read at the EOS.
        config = RewardModelConfig(**arguments, pooling_type="eos")
        sets = {"train_dataset": training.ranked(), "eval_dataset": evaluation.ranked() if evaluation else None}
    trainer = trainer_class(model, config, processing_class=copy.deepcopy(tokenizer), **sets)
    for callback in (PrinterCallback, RunProgressCallback):
        trainer.remove_callback(callback)
    if side.shares and trainer.batch_layout != "shared":
        raise RuntimeError("prompts are not shared: `batch_layout: auto` chose padded rows")
    return trainer, start
