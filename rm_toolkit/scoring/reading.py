"""How models read texts, found out without opening their weights: tokenizer and settings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..models.adapter_files import tokenizer_source
from ..models.hub_files import split_revision
from ..models.settings import RewardModelSettings, load_settings
from ..models.tokenizer import load_tokenizer


def reading_of(model: Any, *, trust_remote_code: bool = False) -> tuple[PreTrainedTokenizerBase, RewardModelSettings]:
    """
    Returns tokenizer and settings of a model; of one of another toolkit settings that say its `data_format` alone.

    Args:
        model (`str`, `os.PathLike` or `RewardScorer`): Folder or Hub id, or a loaded model.
        trust_remote_code (`bool`): Whether code that comes with the tokenizer may run.
    """
    if not isinstance(model, (str, os.PathLike)):
        return model.tokenizer, model.settings
    place = split_revision(model)
    source, revision = tokenizer_source(*place)
    tokenizer = load_tokenizer(source, revision=revision, trust_remote_code=trust_remote_code)
    default = RewardModelSettings(data_format="chat" if tokenizer.chat_template else "text")
    return tokenizer, load_settings(*place) or default


def chat_tokenizers(models: Mapping[str, Any], *, trust_remote_code: bool = False) -> list[PreTrainedTokenizerBase]:
    """Returns the tokenizers of those of some models that read chats; the arguments as in [`reading_of`]."""
    read = [reading_of(model, trust_remote_code=trust_remote_code) for model in models.values()]
    return [tokenizer for tokenizer, settings in read if settings.data_format == "chat"]
