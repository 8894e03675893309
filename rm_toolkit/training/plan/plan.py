"""The plan of a run: memory, whether it fits, steps and hours, from only a recipe and a launch config."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from accelerate.utils import calculate_maximum_sizes
from torch._subclasses import FakeTensorMode

from ...batches.micro_batch import MicroBatch
from ...errors import InputError
from ...models.precision import WEIGHT_DTYPE, compute_dtype
from ...models.reward_model import RewardModel
from ...models.settings import WHOLE_TEXT
from ...models.shared_prompts.choice import expected_layout
from ..engines import default_bf16, gpu_has_bf16
from ..micro_batch_size import AUTO
from ..weight_bytes import weight_bytes
from .launch import Launch, Memory, Weights, deepspeed_estimate, model_states
from .skeleton import adapter_and_bits, base_config, build_skeleton, materialize, quantized_modules
from .step import StepMemory, largest_batch, simulate


if TYPE_CHECKING:
    from trl import ModelConfig

    from ..config import RewardModelConfig
    from ..recipe import RecipeArguments


@dataclass(frozen=True)
class Precision:
    """
    The precision of a run.

    Args:
        name (`str`): `no`, or the 16-bit type of autocast: `bf16`, `fp16`.
        reason (`str`): The reason, in words.
    """

    name: str
    reason: str


def launched_precision(bf16: bool | None, fp16: bool, on_cpu: bool) -> Precision:
    """
    The precision that the launch of a recipe will use, as [`~rm_toolkit.training.engines.LaunchedConfig`] decides.

    Args:
        bf16 (`bool`, *optional*), fp16 (`bool`): Values as parsed from the recipe.
        on_cpu (`bool`): Whether the run computes on a CPU.

    Raises:
        `InputError`: if both are true.
    """
    if bf16 and fp16:
        raise InputError("`bf16` and `fp16` are both true. Keep one of them.")
    if fp16 or bf16 is not None:
        return Precision("fp16" if fp16 else "bf16" if bf16 else "no", "as set in the recipe")
    if on_cpu:
        return Precision("no", "`bf16` is not set, so it is off on a CPU")
    found = gpu_has_bf16()
    here = {
        None: "there is no GPU here to check, so this plan assumes that it does",
        True: "the GPU of this machine does",
        False: "the GPU of this machine does not",
    }[found]
    taken = default_bf16(fp16, on_cpu, found is not False)
    return Precision("bf16" if taken else "no", f"`bf16` is not set, so it is on if the GPU supports it: {here}")


@dataclass
class RunPlan:
    """
    What a run needs.

    Args:
        launch (`Launch`): The launch.
        weights (`Weights`): Sizes of the model.
        states (`Memory`): Parameters, gradients, optimizer, buffers.
        step (`StepMemory`): Activations of one micro-batch.
        layout (`str`): Batch layout of the calculation.
        batch (`str`): The micro-batch of the calculation, in words.
        micro_batches (`int`): Micro-batches of each process in a step.
        pairs_per_step (`int`): Pairs of an optimizer step over all processes.
        deepspeed (`tuple`, *optional*): DeepSpeed's own estimate, see [`deepspeed_estimate`].
        matrix_parameters (`int`): Parameters in matrix products with every token.
        recomputes (`bool`): Whether the forward pass is computed twice.
        precision (`str`): `no`, or the 16-bit type of autocast: `bf16`, `fp16`.
        precision_from (`str`): The reason, in words.
    """

    launch: Launch
    weights: Weights
    states: Memory
    step: StepMemory
    layout: str
    batch: str
    micro_batches: int
    pairs_per_step: int
    deepspeed: tuple[int, int] | None = None
    matrix_parameters: int = 0
    recomputes: bool = False
    precision: str = "no"
    precision_from: str = ""

    @property
    def device_rows(self) -> dict[str, int]:
        """Bytes per GPU (or per process on a CPU) by kind, at the moment of peak memory."""
        rows = dict(self.states.device)
        activations = self.step.peak
        in_step = self.states.step_extra + max(self.step.gradients, 0)
        if in_step > activations:
            rows["the optimizer's step"] = in_step
        else:
            kept = min(self.step.kept, activations)
            rows["activations kept for the backward pass"] = kept
            rows["the rest of the backward pass"] = activations - kept
        return {name: size for name, size in rows.items() if size}

    @property
    def device_total(self) -> int:
        return sum(self.device_rows.values())

    @property
    def host_total(self) -> int:
        on_host = sum(self.states.host.values())
        return on_host + (self.device_total * self.launch.per_machine if self.launch.on_cpu else 0)

    def flops(self, tokens: float) -> float:
        """
        Operations of training on this many tokens: per parameter 2 forward, 4 backward, 2 more with recomputation.
        """
        return (8 if self.recomputes else 6) * self.matrix_parameters * tokens


def make_plan(
    recipe: RecipeArguments,
    training: RewardModelConfig,
    model: ModelConfig,
    launch: Launch,
    *,
    precision: Precision | None = None,
    text_length: int | None = None,
) -> RunPlan:
    """
    Computes what a run needs.

    Args:
        recipe, training, model: From [`~rm_toolkit.training.recipe.parse_recipe`].
        launch (`Launch`): From [`~rm_toolkit.training.plan.launch.read_launch`].
        precision (`Precision`, *optional*): From [`launched_precision`]; by default that of `training`.
        text_length (`int`, *optional*): Tokens of each text; by default the largest, `max_length`.

    Raises:
        `InputError`: if the recipe's batch cannot be divided over the processes, or its base does not exist.
    """
    precision = precision or Precision(training.autocast or "no", "as in `training`")
    config = base_config(recipe, model)
    peft_config, bytes_quantized = adapter_and_bits(model)
    computed_in = compute_dtype(precision.name)
    skeleton = build_skeleton(
        config, training, peft_config=peft_config, compute_dtype=computed_in if bytes_quantized else None
    )
    weights = _weights(skeleton, bytes_quantized, computed_in)
    micro_batches = _micro_batches(training, launch)
    layout = expected_layout(training.batch_layout, skeleton)
    if layout == "shared":
        skeleton.enable_shared_layout()
    length = min(text_length or training.max_length, skeleton.settings.max_length)
    batch = _largest_batch(training, config.get_text_config().vocab_size, length, layout)
    accumulates = micro_batches > 1 or launch.kind not in ("none", "ddp")
    autocast = None if precision.name == "no" else computed_in
    optimizer = str(getattr(training.optim, "value", training.optim))
    return RunPlan(
        launch,
        weights,
        model_states(launch, weights, optimizer, accumulates=accumulates),
        _simulated_step(skeleton, batch, launch, autocast, accumulates),
        layout,
        f"{len(batch.better)} pair(s) of two texts of {length} tokens"
        + (" (`auto` uses as many as fit on the GPU)" if training.max_tokens_per_batch == AUTO else ""),
        micro_batches,
        training.pairs_per_step,
        deepspeed_estimate(launch, weights),
        matrix_parameters=_matrix_parameters(skeleton),
        recomputes=bool(training.gradient_checkpointing),
        precision=precision.name,
        precision_from=precision.reason,
    )


def _simulated_step(
    skeleton: RewardModel, batch: MicroBatch, launch: Launch, autocast: torch.dtype | None, accumulated: bool
) -> StepMemory:
    """Activations of one micro-batch, on tensors without values."""
    mode = FakeTensorMode()
    materialize(skeleton, mode)
    held = weight_bytes(launch.launched())
    return simulate(
        skeleton,
        batch,
        mode,
        autocast=autocast,
        casts_kept=held.casts_kept,
        cast_once=held.cast_once,
        gpu=not launch.on_cpu,
        accumulated=accumulated,
    )


def _largest_batch(training: RewardModelConfig, vocab_size: int, length: int, layout: str) -> MicroBatch:
    return largest_batch(
        pairs=training.per_device_train_batch_size,
        text_length=length,
        layout=layout,
        vocab_size=vocab_size,
        lm_loss_on=training.lm_loss_on if training.lm_loss_coef > 0 else None,
        tokens=_tokens(training),
        pools_all=training.pooling_type in WHOLE_TEXT,
    )


def _weights(model: RewardModel, bytes_quantized: float | None, computed_in: torch.dtype) -> Weights:
    parameters = {id(p): p for p in model.parameters()}.values()
    quantized = {id(p) for m in quantized_modules(model) for p in m.parameters()} if bytes_quantized else set()
    if quantized:  # LoRA's own layers are linear too, but trained
        quantized -= {id(p) for p in parameters if p.requires_grad}
    element = WEIGHT_DTYPE.itemsize
    stored = sum(int(p.numel() * bytes_quantized) if id(p) in quantized else element * p.numel() for p in parameters)
    _, (largest, _) = calculate_maximum_sizes(model)
    return Weights(
        parameters=sum(p.numel() for p in parameters),
        trained=sum(p.numel() for p in parameters if p.requires_grad),
        stored=stored,
        largest=int(largest) // (computed_in if quantized else WEIGHT_DTYPE).itemsize,
    )


def _matrix_parameters(model: RewardModel) -> int:
    embeddings = {id(p) for m in model.backbone.modules() if isinstance(m, torch.nn.Embedding) for p in m.parameters()}
    head = {id(model.lm_head.weight)} if model.lm_head is not None else set()
    return sum(p.numel() for p in {id(p): p for p in model.parameters()}.values() if id(p) not in embeddings - head)


def _tokens(training: RewardModelConfig) -> int | None:
    """Tokens of a micro-batch; for `auto`, those of `per_device_train_batch_size` pairs."""
    return None if training.max_tokens_per_batch == AUTO else training.max_tokens_per_batch


def _micro_batches(training: RewardModelConfig, launch: Launch) -> int:
    at_once = training.per_device_train_batch_size * launch.num_processes
    tokens = _tokens(training)
    if tokens is not None:
        pairs = max(1, tokens // (2 * training.max_length))
        return max(1, math.ceil(training.pairs_per_step / (launch.num_processes * pairs)))
    if training.pairs_per_step % at_once:
        raise InputError(
            f"`pairs_per_step` is {training.pairs_per_step}, which {launch.num_processes} process(es) of "
            f"{training.per_device_train_batch_size} pairs (`per_device_train_batch_size`) do not divide. Use a "
            f"multiple of {at_once}, or change the batch size."
        )
    return training.pairs_per_step // at_once
