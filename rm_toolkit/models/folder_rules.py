"""Rules for each JSON file of a model folder: one table of keys and rules, used by every reader."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

from ..errors import InputError
from ..output.json_files import REMEDY
from .files import ADAPTER_CONFIG, CONFIG_NAME, SAFE_INDEX, SETTINGS_NAME
from .value_rules import (
    Rule,
    check_values,
    date,
    digits,
    either,
    flag,
    list_of,
    mapping,
    mapping_of,
    number,
    one_of,
    optional,
    pattern,
    text,
    whole,
)


# The deepest language models have some 130 layers, the widest 20,000 values, the largest vocabularies 300,000 tokens.
# Values beyond these limits are mistakes, and would be allocated before anybody noticed.
MOST_LAYERS, MOST_WIDTH, MOST_HEADS, MOST_TOKENS, MOST_POSITIONS = 1000, 1 << 20, 1 << 16, 1 << 24, 1 << 40
_layers, _width, _heads = whole(1, MOST_LAYERS), whole(1, MOST_WIDTH), whole(1, MOST_HEADS)
_code = mapping_of(optional(either(text, list_of(optional(text)))))
_token = optional(either(text, mapping))
_stages = optional(list_of(mapping))
CONFIG_RULES: dict[str, Rule] = {
    "model_type": text,
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), optional(_layers)),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "num_decoder_layers"), optional(whole(0, MOST_LAYERS))),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "head_dim"), optional(_width)),
    **dict.fromkeys(("intermediate_size", "d_ff", "ffn_dim", "n_inner"), optional(either(_width, list_of(_width)))),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "n_head"), optional(either(_heads, list_of(_heads)))),
    "vocab_size": whole(1, MOST_TOKENS),
    "max_position_embeddings": optional(whole(1, MOST_POSITIONS)),
    "num_labels": whole(1, MOST_TOKENS),
    "architectures": optional(list_of(text)),
    "id2label": optional(mapping_of(optional(either(text, number())), digits)),
    "label2id": optional(mapping_of(optional(either(text, number())))),
    "auto_map": optional(_code),
    "tie_word_embeddings": optional(flag),
    "quantization_config": optional(mapping),
    "rope_parameters": optional(mapping),
    "rope_scaling": optional(mapping),
    "layer_types": optional(list_of(text)),
    "text_config": optional(mapping),
    **dict.fromkeys(("dtype", "torch_dtype", "hidden_act", "transformers_version"), optional(either(text, mapping))),
    **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), optional(either(whole(-1, MOST_TOKENS), list_of(whole(-1, MOST_TOKENS))))),
    **dict.fromkeys(("initializer_range", "rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon"), optional(number(0, 1e6))),
}  # fmt: skip
SETTINGS_RULES: dict[str, Rule] = {
    "pooling_type": one_of("last", "eos", "average", "max", "cls"),
    "data_format": one_of("text", "chat"),
    "max_length": whole(4, MOST_POSITIONS),
    "pools_eos": optional(flag),
    "chat_date": optional(date),
    "stage": optional(text),
    "domain": optional(text),
    "lineage": list_of(mapping),
    "lm_head": one_of("tied", "saved", "none"),
    "stock": flag,
    "quantization": optional(mapping),
    "rm_toolkit_version": text,
}
STAGE_RULES: dict[str, Rule] = {
    "stage": optional(text),
    "base": optional(text),
    "domain": optional(text),
    **dict.fromkeys(("datasets", "eval_datasets", "replay_datasets"), optional(mapping_of(mapping))),
    "general_lineage": _stages,
    "customized_lineages": optional(list_of(list_of(mapping))),
}
_special = dict.fromkeys((f"{kind}_token" for kind in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")), _token)
_tokens = optional(either(list_of(either(text, mapping)), mapping))
TOKENIZER_RULES: dict[str, Rule] = {
    "tokenizer_class": optional(text),
    "model_max_length": optional(number(1, 1e31)),
    **_special,
    "additional_special_tokens": optional(list_of(either(text, mapping))),
    "extra_special_tokens": _tokens,
    "added_tokens_decoder": mapping_of(mapping, digits),
    "chat_template": optional(either(text, list_of(mapping_of(text)), mapping_of(text))),
    "padding_side": optional(one_of("left", "right")),
    "truncation_side": optional(one_of("left", "right")),
    "model_input_names": optional(list_of(text)),
    "clean_up_tokenization_spaces": optional(flag),
    "auto_map": optional(_code),
}
# Other keys of `special_tokens_map.json`.
SPECIAL_RULES: dict[str, Rule] = {**_special, "additional_special_tokens": _tokens, "extra_special_tokens": _tokens}
TOKEN_RULES: dict[str, Rule] = {"content": text, "id": whole(0, MOST_TOKENS)}
BACKEND_RULES: dict[str, Rule] = {
    "model": mapping,
    "added_tokens": optional(list_of(mapping)),
    "version": optional(text),
    **dict.fromkeys(("normalizer", "pre_tokenizer", "post_processor", "decoder", "truncation", "padding"), optional(mapping)),
}  # fmt: skip
# Of `tokenizer.json`, key `model`. Unigram models list their tokens with their scores.
VOCABULARY_RULES: dict[str, Rule] = {
    "type": optional(one_of("BPE", "Unigram", "WordPiece", "WordLevel")),
    "vocab": either(mapping_of(whole(0, MOST_TOKENS)), list_of(list_of(either(text, number())))),
    "merges": optional(list_of(either(text, list_of(text)))),
}
_modules = optional(either(pattern, list_of(text)))
ADAPTER_RULES: dict[str, Rule] = {
    "peft_type": text,
    "task_type": optional(text),
    "base_model_name_or_path": optional(text),
    "revision": optional(text),
    "r": optional(whole(1, MOST_WIDTH)),
    "lora_alpha": optional(number(0)),
    "lora_dropout": optional(number(0, 1)),
    "bias": optional(one_of("none", "all", "lora_only")),
    "target_modules": _modules,
    "exclude_modules": _modules,
    "modules_to_save": optional(list_of(text)),
    "rank_pattern": optional(mapping_of(whole(1, MOST_WIDTH))),
    "alpha_pattern": optional(mapping_of(number(0))),
    "layers_to_transform": optional(either(whole(0, MOST_LAYERS), list_of(whole(0, MOST_LAYERS)))),
    "auto_mapping": optional(mapping),
}
INDEX_RULES: dict[str, Rule] = {"weight_map": mapping_of(text), "metadata": optional(mapping)}
# File -> its rules, and its required keys.
RULES: dict[str, tuple[dict[str, Rule], tuple[str, ...]]] = {
    CONFIG_NAME: (CONFIG_RULES, ("model_type",)),
    SETTINGS_NAME: (SETTINGS_RULES, ()),
    "tokenizer_config.json": (TOKENIZER_RULES, ()),
    "special_tokens_map.json": (SPECIAL_RULES, ()),
    "added_tokens.json": ({}, ()),
    "generation_config.json": ({}, ()),
    "tokenizer.json": (BACKEND_RULES, ("model",)),
    ADAPTER_CONFIG: (ADAPTER_RULES, ("peft_type",)),
    SAFE_INDEX: (INDEX_RULES, ("weight_map",)),
}


def check_content(file: str, values: dict[str, Any], path: str) -> None:
    """
    Compares the content of a file with its rules.

    Args:
        file (`str`): Its name in the table of files.
        values (`dict`): Its content.
        path (`str`): Where it is, for the message.

    Raises:
        `InputError`: naming file, key and value, and the remedy.
    """
    rules, needed = RULES[file]
    for key in needed:
        if key not in values:
            raise InputError(f"{path} has no `{key}`. {REMEDY}")
    check_values(values, rules, path)
    for inner, own, inside in _inner(file, values):
        check_values(inner, own, path, inside)
    if file == CONFIG_NAME:
        _check_finite(values, path, "")


def _inner(file: str, values: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Rule], str]]:
    """The mappings inside a file that have their own rules."""
    if file == CONFIG_NAME and isinstance(values.get("text_config"), dict):
        yield values["text_config"], CONFIG_RULES, "text_config."
    if file == SETTINGS_NAME:
        yield from (
            (stage, STAGE_RULES, f"{where}.") for stage, where in _all_stages(values.get("lineage") or [], "lineage")
        )
    if file == "tokenizer_config.json":
        for number_, token in (values.get("added_tokens_decoder") or {}).items():
            yield {"content": None, **token}, TOKEN_RULES, f"added_tokens_decoder.{number_}."
    if file in ("tokenizer_config.json", "special_tokens_map.json"):
        for name in _special:
            if isinstance(values.get(name), dict):
                yield {"content": None, **values[name]}, TOKEN_RULES, f"{name}."
    if file == "tokenizer_config.json" and isinstance(values.get("chat_template"), list):
        for place, template in enumerate(values["chat_template"]):
            yield (
                {"name": None, "template": None, **template},
                {"name": text, "template": text},
                f"chat_template[{place}].",
            )
    if file == "tokenizer.json":
        yield values["model"], VOCABULARY_RULES, "model."
        for place, token in enumerate(values.get("added_tokens") or []):
            yield {"content": None, "id": None, **token}, TOKEN_RULES, f"added_tokens[{place}]."


def _all_stages(lineage: list[dict[str, Any]], where: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Every stage, each before the ones that were merged into it, and its place."""
    for place, stage in enumerate(lineage):
        yield stage, f"{where}[{place}]"
        yield from _all_stages(stage.get("general_lineage") or [], f"{where}[{place}].general_lineage")
        for other, merged in enumerate(stage.get("customized_lineages") or []):
            yield from _all_stages(merged, f"{where}[{place}].customized_lineages[{other}]")


def _check_finite(value: Any, path: str, inside: str) -> None:
    """Refuses NaN; infinity is allowed only for limits, where it means "no limit"."""
    if isinstance(value, dict):
        for key, item in value.items():
            _check_finite(item, path, f"{inside}.{key}" if inside else str(key))
    elif isinstance(value, list):
        for item in value:
            _check_finite(item, path, inside)
    elif isinstance(value, float) and (
        math.isnan(value) or (math.isinf(value) and not re.search("limit|max", inside))
    ):
        raise InputError(f"{path}: `{inside}` is not finite ({value}). {REMEDY}")
