"""How a run computes, where that is not what a CPU does by default: casts, Liger's kernels, compiled layers."""

from __future__ import annotations

from accelerate import Accelerator
from transformers import PreTrainedModel

from ..errors import InputError
from ..models.compilation import check_backend, compile_layers
from ..models.compute_copies import ComputeCopies
from ..models.liger import apply_liger, liger_options
from ..models.precision import AUTOCAST_DTYPES, compute_dtype
from ..models.reward_model import RewardModel
from .config import RewardModelConfig
from .engines import read_engine
from .weight_bytes import weight_bytes


def check_kernels(args: RewardModelConfig, backbone: PreTrainedModel) -> None:
    """
    Refuses what [`change_layers`] could not do, before any data is prepared.

    Args:
        args (`RewardModelConfig`): From [`RewardModelConfig.for_one_batch_a_step`].
        backbone (`PreTrainedModel`): The model under the head.

    Raises:
        `InputError`: if Liger does not know the model or an option, there is no such backend to compile with, or there is no
            GPU to offload from.
    """
    if args.activation_offloading and args.device.type == "cpu":
        raise InputError("`activation_offloading` is on, which needs a GPU to offload from. Leave it out on a CPU.")
    if args.with_liger:
        liger_options(backbone.config.model_type, args.liger_kernel_config)
    if args.torch_compile:
        check_backend(args.torch_compile_backend)


def change_layers(args: RewardModelConfig, backbone: PreTrainedModel, *, compiled: bool = True) -> None:
    """
    Puts the kernels that the configuration asks for into a backbone.

    Args:
        args (`RewardModelConfig`): From [`RewardModelConfig.for_one_batch_a_step`].
        backbone (`PreTrainedModel`): The model under the head, or that of a trial; changed in place.
        compiled (`bool`): Whether its layers are compiled, where that is asked for.
    """
    if args.with_liger:
        apply_liger(backbone, args.liger_kernel_config)
    if args.torch_compile and compiled:
        compile_layers(backbone, args.torch_compile_backend, args.torch_compile_mode)


def compute_copies(model: RewardModel, accelerator: Accelerator, *, num_gpus: int) -> ComputeCopies | None:
    """
    What makes the 16-bit copies of the weights, or `None` in fp32 and where each process holds its part of the weights.

    Args:
        model (`RewardModel`): The model, with its adapter.
        accelerator (`Accelerator`): The trainer's.
        num_gpus (`int`): GPUs of this process: with several, the model itself is copied in every forward pass.
    """
    engine = read_engine(accelerator)
    if engine.precision not in AUTOCAST_DTYPES or not weight_bytes(engine).cast_once or num_gpus > 1:
        return None
    return ComputeCopies(model, compute_dtype(engine.precision))


def describe_kernels(args: RewardModelConfig, copies: ComputeCopies | None) -> str:
    """
    Says how the weights are cast, whether layers are compiled, and whose kernels run; empty in fp32 without any.

    Args:
        args (`RewardModelConfig`): From [`RewardModelConfig.for_one_batch_a_step`].
        copies (`ComputeCopies`, *optional*): From [`compute_copies`].
    """
    parts = []
    if copies is not None:
        parts.append("weights cast once a step")
    elif args.autocast:
        parts.append("weights cast in every forward pass")
    if args.torch_compile:
        mode = f", {args.torch_compile_mode}" if args.torch_compile_mode else ""
        parts.append(f"layers compiled ({args.torch_compile_backend}{mode})")
    if args.with_liger:
        parts.append("Liger's kernels")
    if args.full_determinism:
        parts.append("deterministic")
    return "".join(f", {part}" for part in parts)
