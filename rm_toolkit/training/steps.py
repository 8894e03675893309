"""The optimizer steps of a run: an epoch planned ahead, or a stream planned as it is read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.utils.data import DataLoader

from ..batches.collator import PreferenceCollator
from ..batches.epoch_plan import EpochPlan, StepDataset
from ..batches.equal_texts import describe_equal_pairs
from ..batches.micro_batch import MicroBatch
from ..batches.replay_plan import ReplayPlan
from ..batches.step_loading import PlannedSteps, StepNumbers
from ..batches.step_split import PLAN_VERSION
from ..batches.stream import PreferenceStream
from ..batches.stream_plan import StreamPlan
from ..batches.tokenization import TokenizedPreferences
from ..errors import InputError
from ..output.folders import replace_text
from ..output.json_files import load_json
from ..output.progress import say
from .config import RewardModelConfig
from .micro_batch_size import AUTO, MicroBatchSize
from .stopping import leave_signals_to_the_run


class Steps:
    """
    The optimizer steps of a run: a batch of its loader is one process's share of a step, a list of micro-batches.

    Args:
        args (`RewardModelConfig`): Sizes, seed, weighting.
        train (`TokenizedPreferences` or `PreferenceStream`): The training rows.
        joined (`TokenizedPreferences` or `PreferenceStream`): The training rows followed by the replayed rows.
        accelerator (`Accelerator`): The run's accelerator; decides which share is this process's.
    """

    def __init__(
        self,
        args: RewardModelConfig,
        train: TokenizedPreferences | PreferenceStream,
        joined: TokenizedPreferences | PreferenceStream,
        accelerator: Accelerator,
    ):
        self.args, self.train, self.joined, self.accelerator = args, train, joined, accelerator
        self.plan: EpochPlan | StreamPlan | None = None
        self.plan_version = PLAN_VERSION  # the checkpoint's, if the run resumes
        # `auto` counts pairs until the number of tokens is found.
        tokens = args.max_tokens_per_batch
        self.size = MicroBatchSize(args.per_device_train_batch_size, None if tokens == AUTO else tokens)
        self._collator: PreferenceCollator | None = None
        self._resized, self._first_step = False, 0  # whether this process has halved the size; first step of the epoch

    @property
    def stream_plan(self) -> StreamPlan | None:
        """The plan, if the training data is a stream."""
        return self.plan if isinstance(self.plan, StreamPlan) else None

    def loader(self, collator: PreferenceCollator, take_step: Callable[[Any], Any]) -> DataLoader:
        """
        Plans the steps again and returns their loader.

        Args:
            collator (`PreferenceCollator`): Builds the micro-batches; the plan is for its layout.
            take_step (`Callable`): The loader's `collate_fn`: takes the step out of its list.
        """
        args, accelerator, self._collator = self.args, self.accelerator, collator
        planning = {
            "pairs_per_step": args.pairs_per_step,
            "pairs_per_micro_batch": self.size.pairs,
            "pair_weighting": args.pair_weighting,
            "tokens_per_micro_batch": self.size.tokens,
            "shared_layout": collator.layout == "shared",
            "lm_loss": collator.lm_loss_on is not None,
            "version": self.plan_version,
        }
        if isinstance(self.train, PreferenceStream):
            several = accelerator.num_processes > 1
            exchange: Callable[[Any], list[Any]] | None = (lambda value: gather_object([value])) if several else None
            self.plan = StreamPlan(self.train, collator, exchange=exchange, **planning)
            return DataLoader(self.plan, batch_size=None, collate_fn=_as_it_is)
        make_plan = EpochPlan
        if self.joined is not self.train:
            make_plan = partial(ReplayPlan, num_customized=len(self.train), fraction=args.general_replay_fraction)
        self.plan = make_plan(
            self.joined,
            num_processes=accelerator.num_processes,
            process_index=accelerator.process_index,
            seed=data_seed(args),
            group_by_prompt=args.group_by_prompt,
            **planning,
        )
        workers, pin = args.dataloader_num_workers, args.dataloader_pin_memory and accelerator.device.type == "cuda"
        return DataLoader(
            PlannedSteps(self.plan, collator, ahead=not workers, pin=pin and not workers),
            batch_sampler=StepNumbers(self.plan),
            collate_fn=take_step,
            num_workers=workers,
            pin_memory=pin and workers > 0,
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            multiprocessing_context=args.dataloader_multiprocessing_context if workers else None,
            worker_init_fn=leave_signals_to_the_run,
        )

    def recorded(self) -> dict[str, Any]:
        """Returns what a checkpoint records about the current split of a step's pairs."""
        return {"micro_batch": str(self.size), "plan_version": self.plan_version}

    def begin_epoch(self, global_step: int) -> None:
        """Tells the plan which epoch begins, both on a new start and on resume."""
        if isinstance(self.plan, EpochPlan):
            epoch, done = divmod(global_step, len(self.plan))
            # The loop skips finished steps, which need no plan.
            done = 0 if self.args.ignore_data_skip else done
            self.plan.set_epoch(epoch, skipped=done)
            self._first_step = global_step - done

    def resize(self, size: MicroBatchSize) -> None:
        """Changes the size of the micro-batches, from the next planned step on."""
        self.size, self._resized = size, True
        self.plan.resize(size.pairs, size.tokens)

    def planned_again(self, batches: list[MicroBatch], number: int) -> list[MicroBatch]:
        """
        Returns the micro-batches of a step in the current size; called by all processes together.

        Args:
            batches (`list[MicroBatch]`): Micro-batches of another size.
            number (`int`): Number of the step, from 0, over the whole run.
        """
        if self.stream_plan is not None:
            return self.stream_plan.planned_again(batches)
        pairs = self.plan.pairs_of_step(self.plan.epoch, number - self._first_step)
        return StepDataset(self.joined, self._collator)[self.plan.plan_step(pairs)]

    def in_present_size(self, batches: list[MicroBatch], number: int) -> list[MicroBatch]:
        """As [`planned_again`], for steps that loader processes had planned before the size was halved."""
        if self._resized and self.args.dataloader_num_workers > 0:
            return self.planned_again(batches, number)
        return batches

    def epoch(self, global_step: int, max_steps: int) -> float | None:
        """For a stream, which has no epochs: the part of the run that is done."""
        return None if self.stream_plan is None else global_step / max_steps

    def save(self, folder: str | os.PathLike) -> None:
        """Saves the position of each process in a stream into a checkpoint."""
        if self.stream_plan is not None:
            path = Path(folder, stream_state_name(self.args.process_index))
            replace_text(path, json.dumps(self.stream_plan.state_dict()) + "\n")

    def restore(self, folder: str | os.PathLike) -> None:
        """
        Moves each process to its position in a stream, before the first step is read.

        Raises:
            `InputError`: if the checkpoint has no position.
        """
        if self.stream_plan is not None:
            self.stream_plan.load_state_dict(_read_position(str(folder), self.args.process_index))

    def report(self) -> None:
        """Prints how much of a stream was read; called by all processes together."""
        if self.stream_plan is None:
            return
        stream, accelerator = self.stream_plan.stream, self.accelerator
        mine = (
            stream.num_rows,
            stream.num_texts,
            stream.num_truncated,
            stream.num_pairs,
            *stream.equal_pairs.tolist(),
        )
        everyone = gather_object([mine]) if accelerator.num_processes > 1 else [mine]
        if not accelerator.is_main_process:
            return
        rows, texts, cut, pairs, *equal = (sum(numbers) for numbers in zip(*everyone))
        say(
            f"stream: {rows:,} rows read in this run, up to pass {stream.pass_number + 1} over the data; {cut:,} of "
            f"{texts:,} texts were longer than `max_length` {self.args.max_length} and were cut at their beginning"
        )
        by_rows = self.args.pair_weighting == "prompt"
        line = describe_equal_pairs(stream.name, np.array(equal), pairs, keep_equal=by_rows, tied_rows=by_rows)
        if line:
            say(line)


def stream_state_name(process_index: int) -> str:
    """File of a checkpoint that holds the position of one process in the stream."""
    return f"stream_state_{process_index}.json"


def _read_position(checkpoint: str, process_index: int) -> dict[str, Any]:
    path = Path(checkpoint, stream_state_name(process_index))
    if not path.exists():  # if the number of processes has changed, the file of the first one has the old number
        path = Path(checkpoint, stream_state_name(0))
    try:
        return load_json(path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{checkpoint} has no readable position in the stream ({path.name}: {error}): it was not made by a run "
            "that streams its data. Resume without `streaming`, or start a new run."
        ) from error


def check_stream_arguments(args: RewardModelConfig) -> None:
    """
    Refuses settings that do not work with a stream.

    Raises:
        `InputError`: without `max_steps`, with replayed data, or with loader processes.
    """
    if args.max_steps <= 0:
        raise InputError(
            "the training data is a stream of unknown length: set `max_steps` (optimizer steps of the run; "
            f"{args.pairs_per_step} pairs each). `num_train_epochs` does not apply."
        )
    if args.general_replay_fraction > 0:
        raise InputError(
            f"`general_replay_fraction` is {args.general_replay_fraction:g}, but replay needs training data that is "
            "loaded whole. Leave out `streaming`, or mix the general data into the stream as one more of train_datasets."
        )
    if args.dataloader_num_workers > 0:
        raise InputError(
            f"`dataloader_num_workers` is {args.dataloader_num_workers}, but a stream is read by the training process "
            "itself, because processes must agree on every step. Set it to 0."
        )


def data_seed(args: RewardModelConfig) -> int:
    """Seed of the order of the data."""
    return args.seed if args.data_seed is None else args.data_seed


def _as_it_is(item: Any) -> Any:
    return item
