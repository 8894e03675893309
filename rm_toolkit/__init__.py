"""rm_toolkit: train reward models for your own preferences without losing what people in general prefer."""

from __future__ import annotations

import importlib
from typing import Any


__version__ = "0.9.0"

# Imported on first use, so that `import rm_toolkit` and `rm-toolkit --help` do not wait for torch.
_PUBLIC = {
    "RewardModel": "rm_toolkit.models.reward_model",
    "RewardModelConfig": "rm_toolkit.training.config",
    "RewardModelSettings": "rm_toolkit.models.settings",
    "RewardModelTrainer": "rm_toolkit.training.trainer",
    "RewardScorer": "rm_toolkit.scoring.scorer",
    "load_datasets": "rm_toolkit.data.mixture",
}
__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'rm_toolkit' has no attribute '{name}'")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__
