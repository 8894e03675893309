"""Evaluating a reward model: counts, metrics, the rewards behind them, and the report that shows them."""

from __future__ import annotations

from typing import Any


__all__ = ["evaluate"]


def __getattr__(name: str) -> Any:
    if name != "evaluate":
        raise AttributeError(f"module 'rm_toolkit.evaluation' has no attribute '{name}'")
    from .evaluator import evaluate

    return evaluate
