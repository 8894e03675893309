"""Opens a checkpoint: loads its config, and silences messages while its weights load."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import transformers
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING
from transformers.utils import logging

from ..errors import InputError, did_you_mean, name_list
from .files import CONFIG_NAME
from .folder_checks import read_checked
from .load_errors import config_error


def load_config(
    model_name_or_path: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedConfig:
    """
    Loads a model's config, with a clear error if that fails.

    Raises:
        `InputError`: if the folder or repository has no transformers model, or its config has impossible values.
    """
    values = read_checked(model_name_or_path, CONFIG_NAME, revision)
    quantization = ((values or {}).get("quantization_config") or {}).get("quant_method")
    if quantization is not None and quantization not in AUTO_QUANTIZATION_CONFIG_MAPPING:
        raise InputError(
            f"'{model_name_or_path}': `quantization_config` of its config.json has the `quant_method` {quantization!r}, which "
            f"transformers does not know; it knows {name_list(sorted(AUTO_QUANTIZATION_CONFIG_MAPPING))}."
        )
    kind = (values or {}).get("model_type")
    unknown = kind is not None and kind not in CONFIG_MAPPING
    if unknown and values.get("auto_map") and not trust_remote_code:
        raise InputError(
            f"'{model_name_or_path}' comes with its own code (`auto_map` of its config.json), which runs only if you "
            f"allow it. "
            "If you trust its source, pass --trust-remote-code, or `trust_remote_code: true` in a recipe."
        )
    if unknown and not values.get("auto_map"):
        raise InputError(
            f"'{model_name_or_path}' is not a model that transformers can load: `model_type` of its config.json is '{kind}', "
            f"which transformers {transformers.__version__} does not know.{did_you_mean(kind, CONFIG_MAPPING)} Restore the "
            "file, or install a version of transformers that knows this architecture."
        )
    try:
        return AutoConfig.from_pretrained(model_name_or_path, revision=revision, trust_remote_code=trust_remote_code)
    except Exception as error:  # each architecture has its own checks and errors
        raise InputError(config_error(model_name_or_path, error)) from error


def load_classifier_config(
    model_name_or_path: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedConfig:
    """
    Loads a model's config as that of a classifier with one label.

    Raises:
        `InputError`: if the folder or repository has no transformers model, or one with more than one label.
    """
    config = load_config(model_name_or_path, revision=revision, trust_remote_code=trust_remote_code)
    had_head = any(name.endswith("ForSequenceClassification") for name in config.architectures or [])
    if had_head and config.num_labels != 1:
        raise InputError(
            f"'{model_name_or_path}' is a classifier with `num_labels` {config.num_labels} (`id2label` of its config.json); a reward model has "
            "exactly 1. Start from a causal LM, an encoder without a head, or a reward model."
        )
    config.num_labels = 1
    config.problem_type = "regression"
    return config


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """Silences transformers while a checkpoint loads: we handle a missing head and an unused LM head ourselves."""
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
