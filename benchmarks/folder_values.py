"""Invalid values for keys in the JSON files of a model folder, by file, and harmful chat templates."""

from __future__ import annotations

from typing import Any


BINARY = b"\xff\xfe\x80\x81 not UTF-8 \xc3\x28"
NAN, INFINITE = float("nan"), float("inf")
UNCLOSED = {"type": "Split", "pattern": {"Regex": "(" * 50}, "behavior": "Isolated", "invert": False}
# fmt: off
WRONG_VALUES: dict[str, list[tuple[tuple, dict[str, Any]]]] = {
    "config.json": [
        ((), {"model_type": ...}), ((), {"model_type": "no-such-model"}), ((), {"model_type": ["llama"]}),
        ((), {"model_type": None}), ((), {"num_hidden_layers": 1000000}), ((), {"num_hidden_layers": 900}),
        ((), {"num_hidden_layers": 0}), ((), {"num_hidden_layers": -1}), ((), {"num_hidden_layers": 2.5}),
        ((), {"num_hidden_layers": "2"}), ((), {"hidden_size": -1}), ((), {"hidden_size": 0}),
        ((), {"hidden_size": 1 << 40}), ((), {"hidden_size": 1 << 17}), ((), {"hidden_size": [64]}),
        ((), {"intermediate_size": 10 ** 12}), ((), {"vocab_size": 10 ** 12}), ((), {"vocab_size": 50000000}),
        ((), {"vocab_size": -5}), ((), {"vocab_size": None}), ((), {"num_attention_heads": 0}),
        ((), {"num_attention_heads": 3}), ((), {"num_key_value_heads": 10 ** 9}), ((), {"head_dim": 10 ** 9}),
        ((), {"max_position_embeddings": -1}), ((), {"max_position_embeddings": 10 ** 15}),
        ((), {"rms_norm_eps": NAN}), ((), {"rms_norm_eps": "small"}), ((), {"initializer_range": INFINITE}),
        ((), {"rope_parameters": "default"}),
        ((), {"rope_parameters": {"rope_type": "no-such-type", "rope_theta": 10000.0}}),
        ((), {"rope_parameters": {"rope_type": "default", "rope_theta": NAN}}),
        ((), {"hidden_act": "no-such-activation"}), ((), {"hidden_act": 7}), ((), {"dtype": "no-such-dtype"}),
        ((), {"dtype": 32}), ((), {"architectures": "LlamaForSequenceClassification"}),
        ((), {"architectures": [7]}), ((), {"id2label": [1]}), ((), {"id2label": {"zero": "x"}}),
        ((), {"id2label": {str(number): "x" for number in range(7)}}), ((), {"eos_token_id": "two"}),
        ((), {"eos_token_id": 10 ** 12}), ((), {"pad_token_id": [0]}), ((), {"pad_token_id": -7}),
        ((), {"tie_word_embeddings": "maybe"}), ((), {"attention_bias": {"yes": 1}}),
        ((), {"quantization_config": 4}), ((), {"quantization_config": {"quant_method": "no-such-method"}}),
        ((), {"auto_map": [1]}), ((), {"auto_map": {"AutoConfig": "modeling_evil.EvilConfig"}}),
        ((), {"transformers_version": 5}), ((), {"_attn_implementation": "no-such-kernel"}),
        ((), {"layer_types": ["no-such-layer"] * 2}),
    ],
    "rm_toolkit.json": [
        ((), {"pooling_type": "first"}), ((), {"pooling_type": ["last"]}), ((), {"pooling_type": 7}),
        ((), {"data_format": "speech"}), ((), {"data_format": None}), ((), {"max_length": "128"}),
        ((), {"max_length": -1}), ((), {"max_length": 10 ** 15}), ((), {"max_length": NAN}),
        ((), {"max_length": 64.5}), ((), {"max_length": True}), ((), {"max_length": None}),
        ((), {"pools_eos": "no"}), ((), {"chat_date": "yesterday"}), ((), {"chat_date": 20260101}),
        ((), {"stage": ["grft"]}), ((), {"domain": {"law": 1}}), ((), {"lineage": "grft"}),
        ((), {"lineage": {"stage": "grft"}}), ((), {"lineage": ["grft", 7]}),
        ((), {"lineage": [{"stage": "grft", "general_lineage": 7}]}),
        ((), {"lineage": [{"stage": "grft", "datasets": [1]}]}), ((), {"lm_head": "yes"}), ((), {"lm_head": 3}),
        ((), {"stock": "false"}), ((), {"quantization": "4bit"}), ((), {"rm_toolkit_version": 5}),
    ],
    "tokenizer_config.json": [
        ((), {"tokenizer_class": "NoSuchTokenizer"}), ((), {"tokenizer_class": 7}),
        ((), {"tokenizer_class": ["LlamaTokenizer"]}), ((), {"model_max_length": "many"}),
        ((), {"model_max_length": -1}), ((), {"model_max_length": NAN}), ((), {"eos_token": 7}),
        ((), {"eos_token": ["</s>"]}), ((), {"eos_token": {"content": 7}}), ((), {"pad_token": {"no": "content"}}),
        ((), {"additional_special_tokens": "<x>"}), ((), {"additional_special_tokens": [7]}),
        ((), {"extra_special_tokens": 7}), ((), {"added_tokens_decoder": [1]}),
        ((), {"added_tokens_decoder": {"zero": {"content": "x"}}}), ((), {"added_tokens_decoder": {"0": "x"}}),
        ((), {"added_tokens_decoder": {"0": {"content": 7}}}), ((), {"chat_template": 7}),
        ((), {"chat_template": ["{{ messages }}"]}), ((), {"chat_template": [{"name": "default"}]}),
        ((), {"chat_template": {"default": 7}}), ((), {"padding_side": "top"}), ((), {"truncation_side": 3}),
        ((), {"model_input_names": "input_ids"}), ((), {"model_input_names": [7]}),
        ((), {"auto_map": {"AutoTokenizer": ["evil.EvilTokenizer", None]}}), ((), {"auto_map": 7}),
        ((), {"clean_up_tokenization_spaces": "x"}),
    ],
    "tokenizer.json": [
        ((), {"model": ...}), ((), {"model": 7}), ((), {"model": {"type": "no-such-model"}}),
        (("model",), {"vocab": 7}), (("model",), {"vocab": {"a": "one"}}), (("model",), {"vocab": {"a": -1}}),
        (("model",), {"vocab": {"a": 10 ** 12}}), (("model",), {"vocab": {}}),
        (("model",), {"merges": [["a", "zz-not-there"]]}), (("model",), {"merges": 7}), ((), {"added_tokens": 7}),
        ((), {"added_tokens": [{"id": -1, "content": "x"}]}),
        ((), {"added_tokens": [{"id": 10 ** 9, "content": "x", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}]}),
        ((), {"pre_tokenizer": {"type": "no-such-type"}}), ((), {"pre_tokenizer": UNCLOSED}),
        ((), {"post_processor": 7}), ((), {"normalizer": [1]}), ((), {"truncation": "left"}), ((), {"version": 7}),
    ],
    "adapter/adapter_config.json": [
        ((), {"peft_type": ...}), ((), {"peft_type": "NO_SUCH_TYPE"}), ((), {"peft_type": 7}),
        ((), {"peft_type": ["LORA"]}), ((), {"task_type": "NO_SUCH_TASK"}), ((), {"r": -1}), ((), {"r": 0}),
        ((), {"r": "2"}), ((), {"r": 2.5}), ((), {"r": NAN}), ((), {"r": 10 ** 9}), ((), {"lora_alpha": "x"}),
        ((), {"lora_alpha": NAN}), ((), {"lora_dropout": 7}), ((), {"target_modules": 7}),
        ((), {"target_modules": ["no_such_module"]}), ((), {"target_modules": "(.+)+x"}),
        ((), {"target_modules": "("}), ((), {"modules_to_save": "score"}), ((), {"modules_to_save": 7}),
        ((), {"bias": "most"}), ((), {"base_model_name_or_path": ...}), ((), {"base_model_name_or_path": 7}),
        ((), {"base_model_name_or_path": ["x"]}), ((), {"base_model_name_or_path": ""}),
        ((), {"base_model_name_or_path": "."}), ((), {"revision": 7}), ((), {"rank_pattern": 7}),
        ((), {"rank_pattern": {"q_proj": "x"}}), ((), {"layers_to_transform": "x"}),
        ((), {"auto_mapping": {"base_model_class": "Evil", "parent_library": "os"}}), ((), {"unknown_setting": 1}),
    ],
}
SANDBOX_ESCAPE = (
    "{{ messages.__class__.__mro__[-1].__subclasses__() }}",
    "{{ ''.__class__.__base__.__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('touch /tmp/owned') }}",
    "{{ self._TemplateReference__context }}",
    "{% set x = messages.append(1) %}",
)
WRONG_TEMPLATES: dict[str, bytes] = {
    "is empty": b"",
    "is not UTF-8": BINARY,
    "has a syntax error": b"{% for m in messages %}{{ m }}",
    "raises": b"{{ raise_exception('never') }}",
    "divides by zero": b"{{ 1 // 0 }}",
    "names an unknown filter": b"{{ messages | no_such_filter }}",
    "includes a file": b"{% include '/etc/passwd' %}",
    "never ends": b"{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
    "calls itself for ever": b"{% macro f(x) %}{{ f(x) }}{{ f(x) }}{% endmacro %}{{ f(1) }}",
    "doubles for ever": b"{% set n = namespace(x='ab') %}{% for a in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
    "writes 10 GB at once": b"{{ 'a' * 10000000000 }}",
    "writes 10 GB by format": b"{{ '%10000000000d' % 7 }}",
    "writes 10 GB by center": b"{{ 'a' | center(10000000000) }}",
    "writes 10 GB by ljust": b"{{ 'a'.ljust(10000000000) }}",
    "writes 100 GB bit by bit": b"{% for a in range(99999) %}{% for b in range(99999) %}0123456789{% endfor %}{% endfor %}",
    "computes a huge power": b"{{ 10 ** (10 ** 10) }}",
    "nests lists for ever": b"{% set n = namespace(x=[1]) %}{% for a in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}",
    "replaces for ever": b"{% set n = namespace(x='aa') %}{% for a in range(40) %}{% set n.x = n.x.replace('a', 'aaaaaaaaaa') %}{% endfor %}{{ n.x }}",
    "joins for ever": b"{% set n = namespace(x='aa') %}{% for a in range(40) %}{% set n.x = [n.x] * 10 %}{% set n.x = n.x | join(',') %}{% endfor %}{{ n.x }}",
} | {f"escapes ({number})": text.encode() for number, text in enumerate(SANDBOX_ESCAPE, start=1)}
# fmt: on
