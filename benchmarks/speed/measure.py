"""Measurements: interleaved repeats of training, evaluation and tokenization, peak memory, and FLOP/s."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import datasets
import numpy as np
import torch

from rm_toolkit.batches.collator import PreferenceCollator
from rm_toolkit.batches.prefixes import flat_row
from rm_toolkit.batches.tokenization import TokenizedPreferences
from rm_toolkit.losses import ranking_loss

from .contenders import FAST, SIDES, Clock, Setting, make_trainer
from .data import Rows


AGAIN = "fast, second run"


@dataclass
class Timing:
    """
    Measurements of one side over the repeats.

    Args:
        pairs (`int`): Pairs per repeat.
        wall, cpu (`list[float]`): Seconds.
        computed, useful (`int`): Tokens of the last repeat, with and without padding.
    """

    pairs: int = 0
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    computed: int = 0
    useful: int = 0

    def rate(self, clock: str) -> float:
        """Median pairs per second by `wall` or `cpu` time."""
        return self.pairs / median(getattr(self, clock))

    def ratio(self, base: Timing, clock: str) -> tuple[float, float, float]:
        """How many times faster than `base`: median, minimum and maximum over the repeats."""
        ratios = [b / a for a, b in zip(getattr(self, clock), getattr(base, clock))]
        return median(ratios), min(ratios), max(ratios)


def interleaved(sides: tuple[str, ...], repeats: int, run: Callable[[str, int], Any]) -> None:
    """Runs every side once per repeat, in rotating order, so that other load on the machine affects all alike."""
    for repeat in range(repeats):
        for number in range(len(sides)):
            run(sides[(number + repeat) % len(sides)], repeat)
            gc.collect()


def training(setting: Setting, rows: Rows, sides: tuple[str, ...], repeats: int, say: Callable) -> dict[str, Timing]:
    """Times one epoch over the same rows for each side and repeat, after a warm-up step."""
    timings = {side: Timing(rows.num_pairs) for side in sides}
    for side in sides:
        make_trainer(side, setting, rows.take(setting.pairs_per_step)).train()

    def run(side: str, repeat: int) -> None:
        trainer = make_trainer(side, setting, rows, seed=repeat)
        clock = Clock(setting.device)
        trainer.add_callback(clock)
        trainer.train()
        _note(timings[side], trainer.counted, *(b - a for a, b in zip(clock.began, clock.ended)))
        say(f"training {rows.name} {setting.pairs_per_batch}, {side}: {timings[side].cpu[-1]:.1f} CPU s")

    interleaved(sides, repeats, run)
    return timings


def evaluation(setting: Setting, rows: Rows, sides: tuple[str, ...], repeats: int, say: Callable) -> dict[str, Timing]:
    """Times `trainer.evaluate()` on rows that are already tokenized."""
    timings = {side: Timing(rows.num_pairs) for side in sides}
    few = rows.take(setting.pairs_per_step)
    trainers = {side: make_trainer(side, setting, few, evaluation=rows) for side in sides}

    def run(side: str, repeat: int) -> None:
        trainer = trainers[side]
        trainer.counted.computed = trainer.counted.useful = 0
        wall, cpu = time.perf_counter(), time.process_time()
        trainer.evaluate()
        if setting.device == "cuda":
            torch.cuda.synchronize()
        _note(timings[side], trainer.counted, time.perf_counter() - wall, time.process_time() - cpu)
        say(f"evaluation {rows.name} {setting.pairs_per_batch}, {side}: {timings[side].cpu[-1]:.1f} CPU s")

    interleaved(sides, repeats, run)
    return timings


def tokenization(setting: Setting, rows: Rows, sides: tuple[str, ...], repeats: int) -> dict[str, Timing]:
    """Times how each trainer prepares raw pairs, without caches, and how ours does it again from its cache."""
    timings = {side: Timing(rows.num_pairs) for side in sides}
    few = rows.take(setting.pairs_per_step)
    trainers = {side: make_trainer(side, setting, few) for side in sides}
    pairs = rows.pairs()

    def run(side: str, repeat: int) -> None:
        trainer = trainers[side]
        wall, cpu = time.perf_counter(), time.process_time()
        trainer._prepare_dataset(pairs, trainer.processing_class, trainer.args, "benchmark")
        timings[side].wall.append(time.perf_counter() - wall)
        timings[side].cpu.append(time.process_time() - cpu)

    interleaved(sides, repeats, run)
    datasets.enable_caching()
    datasets.config.HF_DATASETS_CACHE = f"{setting.output_dir}/cache"
    timings[AGAIN] = Timing(rows.num_pairs)
    trainers[AGAIN] = trainers[FAST]
    for repeat in range(repeats + 1):  # the first one fills the cache
        run(AGAIN, repeat)
    del timings[AGAIN].wall[0], timings[AGAIN].cpu[0]
    datasets.disable_caching()
    return timings


def _note(timing: Timing, counted: Any, wall: float, cpu: float) -> None:
    timing.wall.append(wall)
    timing.cpu.append(cpu)
    timing.computed, timing.useful = counted.computed, counted.useful


def distinct_tokens(setting: Setting, rows: Rows) -> int:
    """Number of distinct tokens: each prompt and each response counted once, without padding."""
    return sum(
        len(
            flat_row([np.array(ids) for ids in setting.tokenizer([p + c for c in completions])["input_ids"]]).input_ids
        )
        + len(completions)  # EOS
        for p, completions in rows.groups
    )


def planned_tokens(setting: Setting, rows: Rows) -> dict[str, float]:
    """Tokens per pair over the whole set that each side's batching leads to. Nothing is computed."""
    small = replace(setting, shape="tiny")
    tokens = {"each distinct token once": distinct_tokens(setting, rows) / rows.num_pairs}
    for side in SIDES:
        trainer = make_trainer(side, small, rows)
        for _ in trainer.get_train_dataloader():
            pass
        tokens[side] = trainer.counted.computed / rows.num_pairs
    return tokens


def peak_memory(side: str, setting: Setting, rows: Rows) -> float:
    """
    Peak memory of training in MiB, above what is resident before the first step. To be called in a fresh process.

    On a CPU, it is the kernel's high-water mark, reset before training; on a GPU, the allocator's.
    """
    trainer = make_trainer(side, setting, rows)
    if setting.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        trainer.train()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    trainer.train()
    return (_status("VmHWM") - before) / 1024


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{name}:")))


def flops(setting: Setting, rows: Rows, repeats: int) -> dict[str, float]:
    """
    FLOP/s of forward and backward passes on our shared row and on a stock unpadded batch with as many tokens, and
    FLOP/s of a plain matrix product.

    FLOPs are 6 x non-embedding parameters x tokens, plus causal attention. Nothing is recomputed.

    Returns:
        `dict[str, float]`: Median GFLOP/s by CPU time (by wall time on a GPU).
    """
    trainer = make_trainer(FAST, setting, rows)
    model, data = trainer.model.train(), trainer.train_dataset
    device = torch.device(setting.device)
    pairs = np.arange(min(len(data), 8))
    collator = PreferenceCollator(setting.tokenizer.pad_token_id, layout="shared")
    none = np.zeros(0, dtype=np.int64)
    batch = collator.pairs(data, pairs, np.full(len(pairs), 1 / len(pairs)), none, 0.0).to(device)
    stock, ids = model.base_classifier, _unpadded(data, batch.num_tokens).to(device)
    autocast = torch.autocast(setting.device, torch.bfloat16, enabled=setting.device == "cuda")

    def ours() -> None:
        with autocast:
            rewards, _ = model(batch)
            loss = (batch.pair_weight * ranking_loss(rewards, batch.better, batch.worse)).sum()
        loss.backward()

    def theirs() -> None:
        with autocast:
            logits = stock(input_ids=ids, use_cache=False).logits
        logits.sum().backward()

    side = torch.randn(1536, 1536, device=device, dtype=torch.bfloat16 if setting.device == "cuda" else None)
    width = ids.shape[1]
    work = {
        "fast": (ours, _flop(setting, batch.num_tokens, batch.layout.attention_pairs())),
        "stock": (theirs, _flop(setting, ids.numel(), ids.shape[0] * width * (width + 1) // 2)),
        "matmul": (lambda: side @ side, 2 * 1536**3),
    }
    seconds: dict[str, list[float]] = {name: [] for name in work}

    def run(name: str, repeat: int) -> None:
        model.zero_grad()
        now = time.perf_counter if setting.device == "cuda" else time.process_time
        begin = now()
        work[name][0]()
        if setting.device == "cuda":
            torch.cuda.synchronize()
        seconds[name].append(now() - begin)

    interleaved(tuple(work), 1 + 2 * repeats, run)
    return {name: flop / median(seconds[name][1:]) / 1e9 for name, (_, flop) in work.items()}


def _unpadded(data: TokenizedPreferences, num_tokens: int) -> torch.Tensor:
    """Rows of equal length, the mean length of the texts, with about `num_tokens` tokens in total."""
    width = int(data.lengths.mean())
    rows = max(1, round(num_tokens / width))
    return torch.from_numpy(np.resize(data.ids, (rows, width)).astype(np.int64))


def _flop(setting: Setting, tokens: int, attention_pairs: int) -> float:
    config = setting.config()
    hidden, layers = config.hidden_size, config.num_hidden_layers
    kv = config.num_key_value_heads * config.head_dim
    parameters = layers * (2 * hidden**2 + 2 * hidden * kv + 3 * hidden * config.intermediate_size)
    return 6.0 * parameters * tokens + 3 * 4.0 * hidden * attention_pairs * layers
