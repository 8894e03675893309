"""Tiny tokenizers and models built in code, for tests and the recipes' default; nothing is downloaded."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable
from pathlib import Path

import sentencepiece
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    Qwen3Config,
    Qwen3ForCausalLM,
    set_seed,
)

from .errors import InputError
from .models.loading import quiet_loading
from .output.nested_ranges import Keys
from .output.ranges import Choice, Flag, Number, Text


# Keys and values that `tiny_base` of a recipe accepts.
TINY_BASE = Keys(
    {
        "vocab_size": Number(260, 262_144, whole=True),
        "hidden_size": Number(2, 8192, whole=True),
        "num_layers": Number(1, 128, whole=True),
        "num_heads": Number(1, 128, whole=True),
        "architecture": Choice(("llama", "qwen3")),
        "tie_word_embeddings": Flag(),
        "chat_template": Text(empty=False),  # a file
    }
)
ARCHITECTURES = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen3": (Qwen3Config, Qwen3ForCausalLM)}


def train_tokenizer(
    texts: Iterable[str], folder: str | os.PathLike, vocab_size: int = 4096
) -> PreTrainedTokenizerBase:
    """
    Trains a sentencepiece BPE tokenizer and saves it as a Llama tokenizer.

    Args:
        texts (`Iterable[str]`): The texts to train on.
        folder (`str` or `os.PathLike`): Receives `tokenizer.model` and `tokenizer_config.json`.
        vocab_size (`int`): Maximum number of tokens, byte tokens included.

    Returns:
        `PreTrainedTokenizerBase`: BOS in front, no EOS, byte fallback; newlines and runs of spaces are kept.

    Raises:
        `InputError`: if the texts have too many distinct characters for `vocab_size`, or none at all.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            byte_fallback=True,
            character_coverage=0.9999,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            split_digits=True,
            max_sentence_length=1 << 20,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:  # its message names the smallest size that works
        reason = str(error).rpartition("] ")[2]
        raise InputError(
            f"`vocab_size` is {vocab_size}, and no tokenizer of that size can be trained on these texts: {reason}"
        ) from error
    Path(folder, "tokenizer.model").write_bytes(model.getvalue())
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "add_bos_token": True,
    }
    Path(folder, "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return AutoTokenizer.from_pretrained(folder)


def build_tiny_model(
    folder: str | os.PathLike,
    vocab_size: int,
    *,
    architecture: str = "llama",
    hidden_size: int = 64,
    num_layers: int = 2,
    num_heads: int = 4,
    tie_word_embeddings: bool = False,
    seed: int = 0,
    **config: object,
) -> None:
    """
    Saves a randomly initialized causal LM.

    Args:
        folder (`str` or `os.PathLike`): The folder to write.
        vocab_size (`int`): Rows of the embedding.
        architecture (`str`): `"llama"` or `"qwen3"`.
        hidden_size, num_layers, num_heads (`int`): Its size.
        tie_word_embeddings (`bool`): Whether the LM head shares the embedding.
        seed (`int`): Seed of the weights.
        ****config: More fields of the model's config.
    """
    values = {
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "intermediate_size": hidden_size * 2,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "num_key_value_heads": max(1, num_heads // 2),
        "head_dim": hidden_size // num_heads,
        "max_position_embeddings": 2048,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": None,
        "tie_word_embeddings": tie_word_embeddings,
        "dtype": "float32",
    }
    config_class, model_class = ARCHITECTURES[architecture]
    set_seed(seed)
    # Not `from_config`: under ZeRO-3 it shards the weights, which needs all processes; only one of them builds.
    model = model_class(config_class(**{**values, **config}))
    with quiet_loading():
        model.save_pretrained(folder)
