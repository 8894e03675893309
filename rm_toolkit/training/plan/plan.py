"""The plan of a run: memory, whether it fits, steps and hours, from a recipe and a launch config alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from accelerate.utils import calculate_maximum_sizes
from torch._subclasses import FakeTensorMode

from ...batches.collator import MicroBatch
from ...errors import InputError
from ...models.precision import WEIGHT_DTYPE, compute_dtype
from ...models.reward_model import RewardModel
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
    What a run computes in.

    Args:
        name (`str`): `no`, or the 16-bit type of autocast: `bf16`, `fp16`.
        reason (`str`): Why that one, in words.
    """

    name: str
    reason: str


def launched_precision(bf16: bool | None, fp16: bool, on_cpu: bool) -> Precision:
    """
    What the launch of a recipe will compute in, as [`~rm_toolkit.training.engines.LaunchedConfig`] decides there.

    Args:
        bf16 (`bool`, *optional*), fp16 (`bool`): As the recipe's parser reads them.
        on_cpu (`bool`): Whether the run computes on a CPU.

    Raises:
        `InputError`: if both are asked for.
    """
    if bf16 and fp16:
        raise InputError("`bf16` and `fp16` are both true. Keep one of them.")
    if fp16 or bf16 is not None:
        return Precision("fp16" if fp16 else "bf16" if bf16 else "no", "as the recipe says")
    if on_cpu:
        return Precision("no", "`bf16` is not set; a run on a CPU then leaves it off")
    found = gpu_has_bf16()
    here = {
        None: "there is no GPU here to ask, so that this plan assumes it has",
        True: "that of this machine has",
        False: "that of this machine has not",
    }[found]
    taken = default_bf16(fp16, on_cpu, found is not False)
    return Precision("bf16" if taken else "no", f"`bf16` is not set; a run then takes it where its GPU has it: {here}")


@dataclass
class RunPlan:
    """
    What a run needs.

    Args:
        launch (`Launch`): What is launched.
        weights (`Weights`): Sizes of the model.
        states (`Memory`): Parameters, gradients, optimizer, buffers.
        step (`StepMemory`): Activations of one micro-batch.
        layout (`str`): Batch layout that was counted.
        batch (`str`): The micro-batch that was counted, in words.
        micro_batches (`int`): Micro-batches of each process in a step.
        pairs_per_step (`int`): Pairs of an optimizer step over all processes.
        deepspeed (`tuple`, *optional*): DeepSpeed's own estimate, see [`deepspeed_estimate`].
        matrix_parameters (`int`): Parameters that every token is multiplied with.
        recomputes (`bool`): Whether the forward pass is computed twice.
        precision (`str`): `no`, or the 16-bit type of autocast: `bf16`, `fp16`.
        precision_from (`str`): Why that one, in words.
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
        """Bytes of each GPU, or of each process on a CPU, by what takes them, at the moment when most is taken."""
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
        """Operations of training on so many tokens: 2 a parameter forward, 4 backward, 2 more where it recomputes."""
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
    Works out what a run needs.

    Args:
        recipe, training, model: From [`~rm_toolkit.training.recipe.parse_recipe`].
        launch (`Launch`): From [`~rm_toolkit.training.plan.launch.read_launch`].
        precision (`Precision`, *optional*): From [`launched_precision`]; by default that of `training`.
        text_length (`int`, *optional*): Tokens of each text; by default the largest, `max_length`.

    Raises:
        `InputError`: if the recipe's batch does not divide over the processes, or its base is not there.
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
        + (" (`auto` takes as many as fit on the GPU)" if training.max_tokens_per_batch == AUTO else ""),
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
    """Tokens of a micro-batch; `auto` is counted with as many pairs as `per_device_train_batch_size` says."""
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
            f"{training.per_device_train_batch_size} pairs (`per_device_train_batch_size`) do not divide. Take a "
            f"multiple of {at_once}, or change the batch size."
        )
    return training.pairs_per_step // at_once
