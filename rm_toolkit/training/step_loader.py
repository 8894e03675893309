"""Where `RewardModelTrainer` gets its optimizer steps from: an epoch planned ahead, or a stream planned as it is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.utils import gather_object
from datasets import IterableDataset
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import TrainerCallback

from ..batches.epoch_plan import EpochPlan, StepDataset
from ..batches.preference_rows import as_row, check_columns
from ..batches.replay_plan import ReplayPlan
from ..batches.stream import PreferenceStream, Tokenize
from ..batches.stream_plan import StreamPlan
from ..data.records import RowPlace
from ..errors import InputError
from ..output.folders import replace_text
from .config import RewardModelConfig
from .stopping import leave_signals_to_the_run


if TYPE_CHECKING:
    from .trainer import RewardModelTrainer


class StepLoaderMixin:
    """Data loading for [`~rm_toolkit.training.trainer.RewardModelTrainer`]: one batch is one optimizer step."""

    stream_plan: StreamPlan | None = None

    def get_train_dataloader(self) -> DataLoader:
        """One batch is this process's share of one optimizer step: a list of micro-batches."""
        args = self.args
        collator = self._collator(args.lm_loss_on if args.lm_loss_coef > 0 else None)
        planning = {
            "pairs_per_step": self.pairs_per_step,
            "pairs_per_micro_batch": args.per_device_train_batch_size,
            "pair_weighting": args.pair_weighting,
            "tokens_per_micro_batch": args.max_tokens_per_batch,
            "shared_layout": self.batch_layout == "shared",
        }
        if isinstance(self.train_dataset, PreferenceStream):
            several = self.accelerator.num_processes > 1
            exchange: Callable[[Any], list[Any]] | None = (lambda value: gather_object([value])) if several else None
            self.stream_plan = StreamPlan(self.train_dataset, collator, exchange=exchange, **planning)
            return DataLoader(self.stream_plan, batch_size=None, collate_fn=_as_it_is)
        make_plan = EpochPlan
        if self.replay_data is not None:
            make_plan = partial(
                ReplayPlan, num_customized=len(self.train_dataset), fraction=args.general_replay_fraction
            )
        self.epoch_plan = make_plan(
            self.train_data,
            num_processes=self.accelerator.num_processes,
            process_index=self.accelerator.process_index,
            seed=_data_seed(args),
            group_by_prompt=args.group_by_prompt,
            **planning,
        )
        return DataLoader(
            StepDataset(self.train_data, collator),
            batch_sampler=self.epoch_plan,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
            worker_init_fn=leave_signals_to_the_run,
        )

    def _prepare_stream(
        self, dataset: IterableDataset, tokenize: Tokenize, args: RewardModelConfig
    ) -> PreferenceStream:
        name = tokenize.keywords["name"]
        if name != "train":
            raise InputError(
                f"test set '{name}' is a stream; test sets are counted whole. Load it without `streaming`."
            )
        check_stream_arguments(args)
        stream = PreferenceStream(
            dataset,
            tokenize,
            name=name,
            buffer_size=args.shuffle_buffer_size,
            num_processes=args.world_size,
            process_index=args.process_index,
            seed=_data_seed(args),
            group_by_prompt=args.group_by_prompt,
        )
        rows = stream.sample()
        self._keep_samples(rows[0])
        # What the batch layout is chosen by, before the first block is read.
        self.stream_sample = tokenize(
            [
                as_row(row, check_columns(row, name), RowPlace(f"data set '{name}', a stream", "row", number))
                for number, row in enumerate(rows, 1)
            ]
        )
        return stream

    def _save_rng_state(self, output_dir: str) -> None:
        """Each process saves its position in the stream beside its random state."""
        super()._save_rng_state(output_dir)
        if self.stream_plan is not None:
            path = Path(output_dir, stream_state_name(self.args.process_index))
            replace_text(path, json.dumps(self.stream_plan.state_dict()) + "\n")

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Each process goes to its position in the stream, before the first step is read."""
        super()._load_rng_state(checkpoint)
        if self.stream_plan is not None and checkpoint is not None:
            self.stream_plan.load_state_dict(_read_position(checkpoint, self.args.process_index))


def stream_state_name(process_index: int) -> str:
    """File of a checkpoint that holds the position of one process in the stream."""
    return f"stream_state_{process_index}.json"


def _read_position(checkpoint: str, process_index: int) -> dict[str, Any]:
    path = Path(checkpoint, stream_state_name(process_index))
    if not path.exists():  # with another number of processes, the file of the first says how many there were
        path = Path(checkpoint, stream_state_name(0))
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{checkpoint} holds no readable position in the stream ({path.name}: {error}): it was not made by a run "
            "that streams its data. Resume without `streaming`, or start afresh."
        ) from error


def check_stream_arguments(args: RewardModelConfig) -> None:
    """
    Refuses settings that a stream cannot follow.

    Raises:
        `InputError`: without `max_steps`, with replayed data, or with loader processes.
    """
    if args.max_steps <= 0:
        raise InputError(
            "the training data is a stream, whose length nobody knows: set `max_steps` (optimizer steps of the run; "
            f"{args.pairs_per_step} pairs each). `num_train_epochs` does not apply."
        )
    if args.general_replay_fraction > 0:
        raise InputError(
            f"`general_replay_fraction` is {args.general_replay_fraction:g}, but replay goes with training data that is "
            "loaded whole. Leave out `streaming`, or mix the general data into the stream as one more of train_datasets."
        )
    if args.dataloader_num_workers > 0:
        raise InputError(
            f"`dataloader_num_workers` is {args.dataloader_num_workers}, but a stream is read by the training process "
            "itself, which agrees with the others on every step. Set it to 0."
        )


def _data_seed(args: RewardModelConfig) -> int:
    return args.seed if args.data_seed is None else args.data_seed


def _as_it_is(item: Any) -> Any:
    return item


class EpochCallback(TrainerCallback):
    """Tells the plan which epoch begins, on a fresh start and on resume alike; of a stream, says what was read."""

    def __init__(self, trainer: RewardModelTrainer):
        self.trainer = trainer

    def on_epoch_begin(self, args, state, control, **kwargs):
        if self.trainer.stream_plan is None:
            plan = self.trainer.epoch_plan
            plan.set_epoch(state.global_step // len(plan))

    def on_step_end(self, args, state, control, **kwargs):
        if self.trainer.stream_plan is not None:
            state.epoch = state.global_step / state.max_steps  # part of the run; the Trainer would begin at 0 again

    def on_train_end(self, args, state, control, **kwargs):
        if self.trainer.stream_plan is None:
            return
        stream = self.trainer.stream_plan.stream
        mine = (stream.num_rows, stream.num_texts, stream.num_truncated, stream.pass_number)
        everyone = gather_object([mine]) if self.trainer.accelerator.num_processes > 1 else [mine]
        if not state.is_world_process_zero:
            return
        rows, texts, cut = (sum(numbers) for numbers in list(zip(*everyone))[:3])
        tqdm.write(
            f"stream: {rows:,} rows read in this run, up to pass {stream.pass_number + 1} over the data; {cut:,} of "
            f"{texts:,} texts were longer than `max_length` {args.max_length} and lost their beginning"
        )
