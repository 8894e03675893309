"""Finds out how models read texts, without loading their weights: tokenizer and settings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..models.adapter_files import is_adapter, tokenizer_source
from ..models.hub_files import split_revision
from ..models.lm_head import is_causal_lm
from ..models.loading import load_config
from ..models.settings import RewardModelSettings, load_settings
from ..models.tokenizer import load_tokenizer


def reading_of(
    model: Any, revision: str | None = None, *, trust_remote_code: bool = False
) -> tuple[PreTrainedTokenizerBase, RewardModelSettings]:
    """
    Returns tokenizer and settings of a model; for one from another toolkit, those of [`guess_settings`].

    Args:
        model (`str`, `os.PathLike` or `RewardScorer`): Folder or Hub id, or a loaded model.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.
        trust_remote_code (`bool`): Whether code that comes with the tokenizer may run.
    """
    if not isinstance(model, (str, os.PathLike)):
        return model.tokenizer, model.settings
    place = split_revision(model, revision)
    source, revision = tokenizer_source(*place)
    tokenizer = load_tokenizer(source, revision=revision, trust_remote_code=trust_remote_code)
    settings = load_settings(*place)
    if settings is None:
        options = {"revision": place[1], "trust_remote_code": trust_remote_code}
        settings = guess_settings(place[0], tokenizer, **options)
    return tokenizer, settings


def guess_settings(
    model: str, tokenizer: PreTrainedTokenizerBase, *, revision: str | None, trust_remote_code: bool
) -> RewardModelSettings:
    """
    Settings for a reward model of another toolkit: it reads as its stock class does (a decoder's last token, an encoder's
    own pooling); a chat template implies chat data.

    Args:
        model (`str`): Folder or Hub id.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.
        trust_remote_code (`bool`): Whether code that comes with the model may run.
    """
    length = tokenizer.model_max_length if tokenizer.model_max_length < 1_000_000 else 4096
    pooling_type = "last"
    if not is_adapter(model, revision):
        config = load_config(model, revision=revision, trust_remote_code=trust_remote_code)
        length = min(length, getattr(config.get_text_config(), "max_position_embeddings", None) or length)
        if not is_causal_lm(config) and type(config).__module__.startswith("transformers."):
            pooling_type = "cls"
    data_format = "chat" if tokenizer.chat_template else "text"
    return RewardModelSettings(pooling_type=pooling_type, data_format=data_format, max_length=length)


def chat_tokenizers(models: Mapping[str, Any], *, trust_remote_code: bool = False) -> list[PreTrainedTokenizerBase]:
    """Returns the tokenizers of those models that read chats; the arguments as in [`reading_of`]."""
    read = [reading_of(model, trust_remote_code=trust_remote_code) for model in models.values()]
    return [tokenizer for tokenizer, settings in read if settings.data_format == "chat"]
