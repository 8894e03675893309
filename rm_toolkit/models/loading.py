"""Opening a checkpoint: its config, and the silence while its weights load."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from transformers import AutoConfig, PreTrainedConfig
from transformers.utils import logging

from ..errors import InputError
from .load_errors import config_error


def load_config(
    model_name_or_path: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedConfig:
    """
    Loads a model's config, with the reason in words where there is none.

    Raises:
        `InputError`: if the folder or repository does not hold a transformers model.
    """
    try:
        return AutoConfig.from_pretrained(model_name_or_path, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise InputError(config_error(model_name_or_path, error)) from error


def load_classifier_config(
    model_name_or_path: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedConfig:
    """
    Loads a model's config, as that of a classifier with one label.

    Raises:
        `InputError`: if the folder or repository does not hold a transformers model, or one with more than one label.
    """
    config = load_config(model_name_or_path, revision=revision, trust_remote_code=trust_remote_code)
    had_head = any(name.endswith("ForSequenceClassification") for name in config.architectures or [])
    if had_head and config.num_labels != 1:
        raise InputError(
            f"'{model_name_or_path}' is a classifier with `num_labels` {config.num_labels}; a reward model has "
            "exactly 1. Start from a causal LM, an encoder without a head, or a reward model."
        )
    config.num_labels = 1
    config.problem_type = "regression"
    return config


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """Silences transformers while a checkpoint loads: a missing head and an unused LM head are handled by us."""
    verbosity = logging.get_verbosity()
    progress = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if progress:
            logging.enable_progress_bar()
