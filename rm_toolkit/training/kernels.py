"""What the launch line says of how a run computes, where that is not what a CPU does by default."""

from __future__ import annotations

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from .step_trainer import StepTrainer


def describe_kernels(trainer: StepTrainer) -> str:
    """
    Says how the weights are cast, whether layers are compiled, and whose kernels run; empty in fp32 without any.

    Args:
        trainer (`StepTrainer`): The trainer.
    """
    args, parts = trainer.args, []
    if trainer.copies is not None:
        parts.append("weights cast once a step")
    elif args.autocast:
        parts.append("weights cast in every forward pass, as each process holds its part of them")
    if args.torch_compile:
        mode = f", {args.torch_compile_mode}" if args.torch_compile_mode else ""
        parts.append(f"layers compiled ({args.torch_compile_backend}{mode})")
    if args.with_liger:
        parts.append("Liger's kernels")
    if args.full_determinism:
        parts.append("deterministic")
    return "".join(f", {part}" for part in parts)
