"""The fields that `RewardModelConfig` adds to TRL's. The help of each gives its meaning, unit and range."""

from __future__ import annotations

import contextlib
import copy
from dataclasses import dataclass, field
from typing import Annotated, Any

from trl import RewardConfig

from ..errors import InputError
from ..models.precision import same_tf32
from ..models.settings import DATA_FORMATS, POOLING_TYPES
from ..output.ranges import MANY, Choice, Number
from .chat_date import DatedConfig
from .engines import LaunchedConfig
from .micro_batch_size import AUTO, number_or_auto
from .no_effect import refuse_without_effect
from .reports import check_reports
from .setting_ranges import COEFFICIENT, TEXT_LENGTH, check_settings


PAIR_WEIGHTINGS, LM_LOSS_ON, BATCH_LAYOUTS = ("pair", "prompt"), ("text", "completion"), ("auto", "plain", "shared")


@dataclass
class RewardModelConfig(DatedConfig, LaunchedConfig, RewardConfig):
    """
    Configuration of [`~rm_toolkit.training.trainer.RewardModelTrainer`].

    All batch sizes count pairs. Defaults that differ from `trl.RewardConfig`: `max_length` 512, `bf16` only where the
    device has it, `ddp_find_unused_parameters` False (every trainable parameter takes part in every step).
    """

    max_length: Annotated[int, TEXT_LENGTH] = field(
        default=512,
        metadata={
            "help": "Most tokens per text, special tokens included. Longer texts are cut at their beginning; none is dropped."
        },
    )
    pooling_type: Annotated[str, Choice(POOLING_TYPES)] = field(
        default="last",
        metadata={
            "help": "Where the reward is read: 'last' token of the text, 'eos' appended to it, 'average' or 'max' over "
            "its tokens, 'cls' (encoders: the stock class). Only 'last', 'eos' and 'cls' can be loaded by stock classes."
        },
    )
    data_format: Annotated[str, Choice(DATA_FORMATS)] = field(
        default="text",
        metadata={
            "help": "'text' (strings, the original's templates) or 'chat' (message lists, the tokenizer's template)."
        },
    )
    padding_side: Annotated[str, Choice(("right", "left"))] = field(
        default="right", metadata={"help": "Side of the padding, 'right' or 'left'. Does not change rewards."}
    )
    lm_loss_coef: Annotated[float, COEFFICIENT] = field(
        default=0.0,
        metadata={"help": "Weight of the language-modeling loss (the paper: 0.1). 0 (off): no logits are computed."},
    )
    lm_score_threshold: Annotated[float, Number(0, 1)] = field(
        default=0.85,
        metadata={
            "help": "A text counts for the LM loss if score / (best score + 1e-5) of its row is above this value."
        },
    )
    lm_loss_on: Annotated[str, Choice(LM_LOSS_ON)] = field(
        default="text",
        metadata={"help": "'text' (the whole text, as in the paper) or 'completion' (the response alone)."},
    )
    head_learning_rate: Annotated[float | None, Number(0, 100)] = field(
        default=None,
        metadata={
            "help": "Learning rate of the reward head, where `learning_rate` is for the other weights. A fresh head "
            "moves little at a low rate. The schedule is the same. If not set: `learning_rate`."
        },
    )
    general_replay_fraction: Annotated[float, Number(0, 1, below=True)] = field(
        default=0.0,
        metadata={
            "help": "Share of each step's pairs taken from general preferences (`replay_datasets`): keeps "
            "general ability in customized fine-tuning. An epoch still has all customized pairs. 0 (off): none are loaded."
        },
    )
    anchor_coef: Annotated[float, COEFFICIENT] = field(
        default=0.0,
        metadata={
            "help": "Weight of the cross-entropy of sigmoid(margin) against the starting model's on the replayed "
            "general pairs. Its rewards are computed once, before the first step. 0 (off): none are computed."
        },
    )
    pair_weighting: Annotated[str, Choice(PAIR_WEIGHTINGS)] = field(
        default="pair",
        metadata={
            "help": "'pair': all pairs of a step weigh the same. 'prompt': mean within each row, then over rows, "
            "with tied rows."
        },
    )
    group_by_prompt: bool = field(
        default=True,
        metadata={
            "help": "Keep the pairs of a prompt in one step, so that its texts are computed once. Off: rows are "
            "shuffled singly."
        },
    )
    pairs_per_step: Annotated[int | None, Number(1, MANY, whole=True)] = field(
        default=None,
        metadata={
            "help": "Pairs of one optimizer step over all processes. gradient_accumulation_steps follows from it, "
            "per_device_train_batch_size and the number of processes."
        },
    )
    batch_layout: Annotated[str, Choice(BATCH_LAYOUTS)] = field(
        default="auto",
        metadata={
            "help": "'plain': one padded row per text. 'shared': one row without padding, a shared prompt computed once, "
            "the same rewards and gradients. 'auto': 'shared' where it is exact for this model and saves tokens."
        },
    )
    max_tokens_per_batch: Annotated[int | str | None, Number(1, MANY, whole=True, also=(AUTO,))] = field(
        default=None,
        metadata={
            "help": "Fill micro-batches up to this many tokens (padding included, a shared prompt once) instead of "
            "per_device_train_batch_size pairs; at least 2 * max_length. 'auto': as many as fit on this GPU, found before "
            "the first step (not under DeepSpeed or FSDP, or on a CPU). The pairs of a step do not change."
        },
    )
    auto_find_batch_size: bool = field(
        default=False,
        metadata={
            "help": "If a step runs out of memory, compute it again in micro-batches of half the size, and later steps "
            "too; gradients stay the same. Not under DeepSpeed or FSDP. On with max_tokens_per_batch 'auto'."
        },
    )
    shuffle_buffer_size: Annotated[int, Number(1, MANY, whole=True, unit="rows")] = field(
        default=1000,
        metadata={
            "help": "Streamed training data: rows that each process holds in memory at a time. Rows are shuffled and "
            "pairs of one prompt are grouped within these."
        },
    )
    merge_adapter: bool | None = field(
        default=None,
        metadata={
            "help": "Whether the saved folder is the merged stock model, with the adapter in `adapter/`, or only the "
            "adapter. If not set: merged, except on a 4-bit base."
        },
    )
    eval_at_start: bool | None = field(
        default=None, metadata={"help": "The original's name for eval_on_start: evaluate before the first step."}
    )
    eval_curve_fraction: Annotated[float, Number(0, 1, above=True)] = field(
        default=1.0,
        metadata={
            "help": "Share of each test set (its prompts, by domain and source) that is evaluated between the first "
            "and the last step, as 'eval_NAME_sample_accuracy' etc. (usable in `metric_for_best_model`). 1: all of "
            "it, always."
        },
    )
    bf16: bool | None = field(
        default=None,
        metadata={
            "help": "bf16 autocast; weights stay fp32. If not set: True where a GPU supports it, False on a CPU."
        },
    )
    use_liger_kernel: bool = field(
        default=False,
        metadata={
            "help": "Liger's fused RMSNorm, SwiGLU and RoPE in the backbone, on a GPU; its losses stay off. Needs the extra "
            "'gpu'. Rewards differ by kernel noise. It also replaces RoPE of other models of this type in the process."
        },
    )
    liger_kernel_config: dict[str, bool] | None = field(
        default=None, metadata={"help": "Which of Liger's kernels, such as {'rope': false}. If not set: its defaults."}
    )
    torch_compile: bool = field(
        default=False,
        metadata={
            "help": "Compile the backbone's layers one by one, in place: weight names do not change, TF32 stays off. Takes "
            "about a minute at the start; rewards differ by kernel noise."
        },
    )
    full_determinism: bool = field(
        default=False,
        metadata={
            "help": "The same run bit for bit on the same kind of GPU and the same versions; slower. A CPU needs no "
            "flag for this."
        },
    )
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Not needed: every trainable parameter takes part in every step."}
    )

    allow_changed_settings: bool = field(
        default=False,
        metadata={
            "help": "On resume, accept a number of steps, rate, schedule, precision or test set that differs from the "
            "checkpoint, from its step on; the lineage records it. Off: any change is refused."
        },
    )
    restore_callback_states_from_checkpoint: bool = field(
        default=True, metadata={"help": "On resume, early stopping continues its count."}
    )

    def __post_init__(self):
        self.max_tokens_per_batch = number_or_auto(self.max_tokens_per_batch)
        check_settings(self)
        refuse_without_effect(self)
        check_reports(self.report_to)
        if self.eval_at_start is not None:
            self.eval_on_start = self.eval_at_start
        # TRL applies these after the tokenizer was prepared: the saved model would read other tokens than the trained
        # one.
        for name in ("pad_token", "eos_token", "chat_template_path"):
            if getattr(self, name) is not None:
                raise InputError(
                    f"`{name}` is '{getattr(self, name)}'; set it on the tokenizer instead, and pass that one "
                    "(`processing_class`, or --tokenizer_name_or_path DIR)."
                )
        # With `torch_compile` transformers would turn on TF32 for the whole process: RoPE multiplies positions in fp32.
        with same_tf32() if self.tf32 is None else contextlib.nullcontext():
            super().__post_init__()
        if self.anchor_coef > 0 and not self.general_replay_fraction:
            raise InputError(
                f"`anchor_coef` is {self.anchor_coef} with `general_replay_fraction` 0: the anchor is computed on replayed "
                "general pairs. Set a fraction, such as 0.25, and `replay_datasets`."
            )
        if self.lm_loss_coef > 0 and self.pooling_type == "cls":
            raise InputError("`lm_loss_coef` is above 0 with `pooling_type` 'cls': encoders have no next-token loss.")
        if isinstance(self.max_tokens_per_batch, int) and self.max_tokens_per_batch < 2 * self.max_length:
            raise InputError(
                f"`max_tokens_per_batch` is {self.max_tokens_per_batch}; a pair of two texts of `max_length` "
                f"{self.max_length} needs {2 * self.max_length}. Raise it, or lower `max_length`."
            )
        self._derive_accumulation()

    def for_one_batch_a_step(self, streaming: bool) -> RewardModelConfig:
        """
        Returns a copy for transformers' loop: one batch of its loader is a whole optimizer step, so that the step's
        denominators are known before it begins and the loop has nothing to accumulate. Reports and cards still name
        the accumulation within the step.

        Args:
            streaming (`bool`): Whether the training data is a stream.
        """
        args = copy.copy(self)
        args.accumulated = self.gradient_accumulation_steps
        args.gradient_accumulation_steps = 1
        args.model_init_kwargs = None  # the model is loaded already
        # Upstream's loop would change only models of transformers' own classes, and report that it changes nothing.
        args.with_liger, args.use_liger_kernel = self.use_liger_kernel, False
        # Upstream would restart the whole run.
        args.computes_again = self.auto_find_batch_size or self.max_tokens_per_batch == AUTO
        args.auto_find_batch_size = False
        args.ignore_data_skip |= streaming  # the position in a stream is restored, not reached by skipping
        args.logging_nan_inf_filter = False  # such a loss ends the run; the filter would hide it and cost two syncs
        return args

    def to_dict(self) -> dict[str, Any]:
        """As in transformers, for reports; the micro-batches of a step count as accumulated."""
        accumulated = getattr(self, "accumulated", self.gradient_accumulation_steps)
        fused = getattr(self, "with_liger", self.use_liger_kernel)
        again = getattr(self, "computes_again", self.auto_find_batch_size)
        found = {"gradient_accumulation_steps": accumulated, "use_liger_kernel": fused, "auto_find_batch_size": again}
        # Name of the model, where a trainer has one: reports show its origin.
        found |= {"rm_toolkit": self.model_record} if getattr(self, "model_record", None) else {}
        return super().to_dict() | found

    def _derive_accumulation(self) -> None:
        at_once = self.per_device_train_batch_size * self.world_size
        if self.pairs_per_step is None:
            self.pairs_per_step = at_once * self.gradient_accumulation_steps
            return
        by_tokens = isinstance(self.max_tokens_per_batch, int) or (
            self.max_tokens_per_batch == AUTO and self.device.type == "cuda"
        )
        if by_tokens and self.pairs_per_step >= 1:
            self.gradient_accumulation_steps = max(1, self.pairs_per_step // at_once)
            return
        if self.pairs_per_step < 1 or self.pairs_per_step % at_once:
            raise InputError(
                f"`pairs_per_step` is {self.pairs_per_step}, which {self.world_size} process(es) of "
                f"{self.per_device_train_batch_size} pairs (`per_device_train_batch_size`) do not divide. Use a "
                f"multiple of {at_once}, or change the batch size."
            )
        self.gradient_accumulation_steps = self.pairs_per_step // at_once
