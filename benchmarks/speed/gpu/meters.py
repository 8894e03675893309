"""Measures a run: seconds per step, the work that went through the model, and how long the device was busy."""

from __future__ import annotations

import time
from typing import Any

import torch
from transformers import TrainerCallback

from .flops import Work, padded_work


def synchronize(device: str) -> None:
    """Waits until the device has finished its work."""
    if device == "cuda":
        torch.cuda.synchronize()


class Recorder:
    """Records every batch that goes through a model without waiting for the device; the work is counted later."""

    def __init__(self, model: torch.nn.Module):
        self.batches: list[Any] = []
        self.handle = model.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, model: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        batch = args[0] if args and hasattr(args[0], "num_tokens") else None
        if batch is None or batch.layout is None:
            ids = kwargs.get("input_ids") if batch is None else batch.input_ids
            self.batches.append(tuple((args[0] if ids is None else ids).shape))
        else:
            self.batches.append(batch.layout)

    def work(self, begin: int = 0, end: int | None = None) -> Work:
        """Total work of the batches from number `begin` up to, but without, `end`."""
        total = Work()
        for batch in self.batches[begin:end]:
            if isinstance(batch, tuple):
                total += padded_work(*batch)
            else:
                read = batch.num_tokens if batch.needed is None else len(batch.needed)
                total += Work(batch.num_tokens, batch.attention_pairs(), batch.num_tokens - read)
        return total


class StepClock(TrainerCallback):
    """
    Records the wall seconds of every optimizer step, data and optimizer included, and its batches. Waits for the
    device at the end of each step.

    Args:
        device (`str`): `"cpu"` or `"cuda"`.
        recorder (`Recorder`): Recorder of the model's batches.
        profiled (`bool`): Whether to profile the last step.
        with_host (`bool`): Whether to profile the host, too, which slows the step down.
    """

    def __init__(self, device: str, recorder: Recorder, *, profiled: bool = False, with_host: bool = False):
        self.device, self.recorder = device, recorder
        self.profiled, self.with_host = profiled, with_host
        self.seconds: list[float] = []
        self.ends: list[int] = []
        self.losses: list[float] = []
        self.began = self.first_end = 0.0
        self.profile: Any = None

    def _now(self) -> float:
        synchronize(self.device)
        return time.perf_counter()

    def on_train_begin(self, args, state, control, **kwargs):
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self.began = self._now()

    def on_step_end(self, args, state, control, **kwargs):
        now = self._now()
        self.seconds.append(now - self.began)
        self.ends.append(len(self.recorder.batches))
        if len(self.seconds) == 1:
            self.first_end = time.time()
        if self.profile is not None:
            self.profile.__exit__(None, None, None)
        elif self.profiled and len(self.seconds) == state.max_steps - 1:
            activities = [torch.profiler.ProfilerActivity.CUDA] if self.device == "cuda" else []
            if self.with_host or not activities:
                activities.append(torch.profiler.ProfilerActivity.CPU)
            self.profile = torch.profiler.profile(activities=activities)
            self.profile.__enter__()
        self.began = self._now()

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))

    def work_of(self, first: int, last: int) -> Work:
        """Work of the steps from `first` up to, but without, `last`, counted from 0."""
        return self.recorder.work(self.ends[first - 1] if first else 0, self.ends[last - 1])


def device_events(profile: Any) -> list[tuple[str, float, float]]:
    """Name, begin and end (seconds) of everything that ran on the device under the profiler."""
    events = []
    for event in profile.events():
        if event.device_type != torch.autograd.DeviceType.CUDA or getattr(event, "is_user_annotation", False):
            continue
        if event.name.startswith(("Optimizer.", "ProfilerStep")):  # spans on the device's row, not kernels
            continue
        events.append((event.name, event.time_range.start / 1e6, event.time_range.end / 1e6))
    return events


def covered(intervals: list[tuple[float, float]]) -> float:
    """Seconds covered by at least one interval; kernels of several streams may overlap."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(intervals):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total
