"""Saves settings also under the names that transformers 4 and servers built on it read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..output.json_files import load_json


# Names of theta and of the rotated share in version 4, where they are not `rope_theta` and
# `partial_rotary_factor`.
THETA_NAMES = {"gpt_neox": "rotary_emb_base"}
SHARE_NAMES = {"gpt_neox": "rotary_pct"}
# Theta of the global and of the local layers, in models that have both.
LAYERED_THETA_NAMES = {
    "modernbert": ("global_rope_theta", "local_rope_theta"),
    "modernbert-decoder": ("global_rope_theta", "local_rope_theta"),
    "gemma3_text": ("rope_theta", "rope_local_base_freq"),
}

# Classes of version 4 that rebuild their post-processor when they are loaded.
REBUILDING = {f"{name}Tokenizer{fast}" for name in ("Llama", "CodeLlama", "Gemma", "Cohere") for fast in ("", "Fast")}


def write_legacy_rope_keys(path: Path) -> None:
    """Adds them to a saved `config.json`, see [`add_legacy_rope_keys`]."""
    config = load_json(path)
    add_legacy_rope_keys(config)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def add_legacy_rope_keys(config: dict[str, Any]) -> None:
    """
    Adds `rope_theta` and `rope_scaling` beside `rope_parameters`, in place, also inside nested text configs.

    transformers 5 writes only `rope_parameters`, which version 4 ignores: it would silently use theta 10000 without
    scaling. Version 5 reads both forms with the same result.

    Args:
        config (`dict`): Contents of a `config.json`.
    """
    for value in config.values():
        if isinstance(value, dict) and "rope_parameters" in value:
            add_legacy_rope_keys(value)
    rope = config.get("rope_parameters")
    model_type = config.get("model_type", "")
    if not isinstance(rope, dict):
        return
    if model_type in LAYERED_THETA_NAMES and "full_attention" in rope:
        names = dict(zip(("full_attention", "sliding_attention"), LAYERED_THETA_NAMES[model_type]))
        for layers, name in names.items():
            if "rope_theta" in (rope.get(layers) or {}):
                config[name] = rope[layers]["rope_theta"]
        if model_type == "gemma3_text":  # only the global layers are scaled
            config["rope_scaling"] = _scaling(rope["full_attention"])
        return
    if "rope_theta" not in rope:
        return
    config["rope_theta"] = rope["rope_theta"]
    config[THETA_NAMES.get(model_type, "rope_theta")] = rope["rope_theta"]
    if rope.get("partial_rotary_factor") is not None:
        config[SHARE_NAMES.get(model_type, "partial_rotary_factor")] = rope["partial_rotary_factor"]
    config["rope_scaling"] = _scaling(rope)


def write_legacy_tokenizer_keys(path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    """
    Writes a saved `tokenizer_config.json` so that version 4 loads it; version 5 reads both forms.

    Version 5's name of the general fast tokenizer, and its list under `extra_special_tokens`, raise an error there.
    What the tokenizer returns besides the ids is written out: by default version 4's general one adds
    `token_type_ids`, which no decoder accepts. And some of its classes always put BOS before a text and no EOS after
    it, ignoring `tokenizer.json`; the general one follows that file.

    Args:
        path (`Path`): The file.
        tokenizer (`PreTrainedTokenizerBase`): The tokenizer saved in it.
    """
    config = load_json(path)
    config["model_input_names"] = list(tokenizer.model_input_names)
    if config.get("tokenizer_class") == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    if config.get("tokenizer_class") in REBUILDING and not _begins_with_bos_alone(tokenizer):
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(config.get("extra_special_tokens"), list):
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    path.write_text(json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _begins_with_bos_alone(tokenizer: PreTrainedTokenizerBase) -> bool:
    ids = tokenizer("a")["input_ids"]
    return ids[0] == tokenizer.bos_token_id and ids[-1] != tokenizer.eos_token_id


def _scaling(rope: dict[str, Any]) -> dict[str, Any] | None:
    scaling = {key: value for key, value in rope.items() if key not in ("rope_theta", "partial_rotary_factor")}
    return None if scaling.get("rope_type", "default") == "default" else scaling
