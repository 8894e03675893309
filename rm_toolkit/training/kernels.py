"""How a run computes where that differs from a CPU's default: casts, Liger's kernels, compiled layers."""

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
    Refuses settings that [`change_layers`] could not apply, before any data is prepared.

    Args:
        args (`RewardModelConfig`): From [`RewardModelConfig.for_one_batch_a_step`].
        backbone (`PreTrainedModel`): The model under the head.

    Raises:
        `InputError`: if Liger does not support the model or an option, the compile backend does not exist, or there is
            no GPU to offload from.
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
        backbone (`PreTrainedModel`): The model under the head, or the one of a trial; changed in place.
        compiled (`bool`): Whether its layers are compiled, if the settings say so.
    """
    if args.with_liger:
        apply_liger(backbone, args.liger_kernel_config)
    if args.torch_compile and compiled:
        compile_layers(backbone, args.torch_compile_backend, args.torch_compile_mode)


def compute_copies(model: RewardModel, accelerator: Accelerator, *, num_gpus: int) -> ComputeCopies | None:
    """
    Makes the 16-bit copies of the weights; `None` in fp32, or if each process holds a part of the weights.

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
    Describes how the weights are cast, whether layers are compiled, and which kernels run; empty in plain fp32.

    Args:
        args (`RewardModelConfig`): From [`RewardModelConfig.for_one_batch_a_step`].
        copies (`ComputeCopies`, *optional*): From [`compute_copies`].
    """
    parts = []
    if copies is not None:
        parts.append("weights cast once per step")
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
