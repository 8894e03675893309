"""Publishing: a trained reward model or a built dataset -> the Hugging Face Hub, with a card built from the run's record."""

from __future__ import annotations

from .datasets import push_dataset
from .models import push_model


__all__ = ["push_dataset", "push_model"]
