"""Prepares a tokenizer for a reward model: pad token, BOS and EOS, truncation side; what is prepared is what is saved."""

from __future__ import annotations

import contextlib
import warnings

from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

from ..batches.template_limits import limit_chat_templates
from ..errors import InputError, last_line, one_line
from .files import CONFIG_NAME
from .folder_checks import check_tokenizer_files, place_of
from .lm_head import is_causal_lm
from .load_errors import panics_raised
from .loading import load_config, quiet_loading


limit_chat_templates()
PAD_TOKEN = "<|rm_pad|>"

# Stated default for chat data with a tokenizer that has no chat template: ChatML, the most widely read one.
# Encoders get their own first and last token around it.
DEFAULT_CHAT_TEMPLATE = (
    "{{ cls_token if cls_token is defined and cls_token else '' }}{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{% elif sep_token is defined and sep_token %}{{ sep_token }}{% endif %}"
)


def load_tokenizer(
    model_name_or_path: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """
    Loads a tokenizer, with a clear error if that fails.

    Raises:
        `InputError`: if the folder or repository has no tokenizer that transformers can read.
    """
    check_tokenizer_files(model_name_or_path, revision)
    try:
        # transformers prints much about an unknown architecture, before the model itself is refused in one line.
        with panics_raised(), quiet_loading(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return AutoTokenizer.from_pretrained(
                model_name_or_path, revision=revision, trust_remote_code=trust_remote_code
            )
    except Exception as error:  # the tokenizers library raises nothing more specific
        if place_of(model_name_or_path, CONFIG_NAME, revision) is not None:  # transformers reads it first
            load_config(model_name_or_path, revision=revision, trust_remote_code=trust_remote_code)
        reason, place = one_line(last_line(error), 300), place_of(model_name_or_path, "tokenizer.json", revision)
        of_file = "" if place is None else "its `tokenizer.json`, or what is beside it, is refused: "
        if "instantiate the backend tokenizer" in str(error):  # a list of reasons without a remedy
            reason = "there is no `tokenizer.json` and no `tokenizer.model` that can be read."
        raise InputError(
            f"no tokenizer could be loaded from '{model_name_or_path}': {of_file}{reason} Save one into it "
            "(`tokenizer.save_pretrained(DIR)`), or name a folder or Hub id that has one with --tokenizer_name_or_path."
        ) from error


def end_of_turn_ids(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig | None = None) -> set[int]:
    """
    Returns the ids that end a text or a turn: EOS of tokenizer and model, and every special token of the chat template.

    None of them may be the pad token: the stock head reads the last token that is not `pad_token_id`, so a pad token
    that also ends a turn would make it read the token before.
    """
    ids = {tokenizer.eos_token_id}
    if config is not None:
        eos = config.get_text_config().eos_token_id
        ids.update(eos if isinstance(eos, (list, tuple)) else [eos])
    if tokenizer.chat_template:
        conversation = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        # A template may refuse this conversation (for example, if it needs a system turn); then only EOS is known.
        with contextlib.suppress(Exception):
            rendered = tokenizer.apply_chat_template(conversation, tokenize=True, return_dict=True)["input_ids"]
            ids.update(set(rendered) & set(tokenizer.all_special_ids) | set(rendered[-2:]))
    return {token for token in ids if token is not None}


def prepare_tokenizer(
    tokenizer: PreTrainedTokenizerBase,
    config: PreTrainedConfig,
    *,
    max_length: int,
    pooling_type: str = "last",
    data_format: str = "text",
    pools_eos: bool = False,
) -> PreTrainedTokenizerBase:
    """
    Makes the tokenizer produce exactly the ids that the reward model reads, also after saving.

    Left truncation keeps BOS, the last tokens and EOS. With `pooling_type="eos"` and text data every text ends in EOS,
    appended by the tokenizer itself, and with `pools_eos`; with `"last"` none is appended. Chat data keep the ids of the template as they are:
    the tokenizer adds none, so that tokenizing the rendered string gives the same ids.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): A fast tokenizer, changed in place.
        config (`PreTrainedConfig`): The model's config; its `pad_token_id` is set, its end-of-turn ids are respected.
        max_length (`int`): Most tokens per text, special tokens included.
        pooling_type (`str`): Where the reward is read, see [`~rm_toolkit.models.reward_model.RewardModel`].
        data_format (`str`): `"text"` or `"chat"`.
        pools_eos (`bool`): Whether `average` or `max` pool EOS, see
            [`~rm_toolkit.models.settings.RewardModelSettings`].

    Raises:
        `InputError`: if the tokenizer is not a fast one, lacks an EOS that `pooling_type` needs, or has more tokens
            than the model's embedding and the model cannot be extended.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(
            f"{type(tokenizer).__name__} has no fast (`tokenizers`) form, which batched tokenisation and the saved EOS "
            "rule need. Convert it: load it with transformers 5 and a `tokenizer.json` or `tokenizer.model` beside it."
        )
    if pooling_type == "eos" and data_format == "text" and tokenizer.eos_token_id is None:
        raise InputError(
            "`pooling_type` is 'eos', but the tokenizer has no `eos_token`. Set one, or use `pooling_type: last`."
        )
    if data_format == "chat" and not tokenizer.chat_template:
        tokenizer.chat_template = DEFAULT_CHAT_TEMPLATE
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    _set_pad_token(tokenizer, config)
    if data_format == "chat":
        _add_nothing(tokenizer)
    elif is_causal_lm(config):  # an encoder keeps its own [CLS] and [SEP]
        _set_post_processor(tokenizer, append_eos=pooling_type == "eos" or pools_eos)
    # `save_pretrained` does not write attributes; `init_kwargs` is saved in tokenizer_config.json.
    settings = {"truncation_side": "left", "padding_side": "right", "model_max_length": int(max_length)}
    for name, value in settings.items():
        setattr(tokenizer, name, value)
        tokenizer.init_kwargs[name] = value
    # Both would make loading rebuild the post-processor, which loses BOS (measured, transformers 5.23).
    for name in ("add_eos_token", "add_bos_token"):
        tokenizer.init_kwargs.pop(name, None)
    return tokenizer


def adds_eos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Returns whether the tokenizer itself appends EOS to a text."""
    ids = tokenizer("a")["input_ids"]
    return tokenizer.eos_token_id is not None and ids[-1] == tokenizer.eos_token_id


def check_fits_model(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, source: str) -> None:
    """
    Refuses a tokenizer that was clearly made for another model.

    Raises:
        `InputError`: if it knows many more tokens than the embedding has rows. A few added tokens are
            common and are handled by resizing the embedding.
    """
    vocab_size = config.get_text_config().vocab_size
    if len(tokenizer) - vocab_size > 64:
        raise InputError(
            f"the tokenizer of '{source}' has {len(tokenizer):,} tokens, but the model's embedding has {vocab_size:,} "
            "rows: it is for another model. Give the matching one with --tokenizer_name_or_path."
        )


def _set_pad_token(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> None:
    ending = end_of_turn_ids(tokenizer, config)
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id in ending:
        tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
        tokenizer.init_kwargs["pad_token"] = PAD_TOKEN
    config.get_text_config().pad_token_id = tokenizer.pad_token_id
    config.pad_token_id = tokenizer.pad_token_id


def _add_nothing(tokenizer: PreTrainedTokenizerBase) -> None:
    """Tokenizes a chat template's text as it is: the tokenizer's BOS would occur twice."""
    if any(tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"]):
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A:0", pair="$A:0 $B:1")


def _set_post_processor(tokenizer: PreTrainedTokenizerBase, *, append_eos: bool) -> None:
    """Fixes which special tokens surround a text: BOS if the tokenizer adds one, EOS if requested."""
    adds_bos = tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    if adds_eos(tokenizer) == append_eos:
        return
    tokens = {}
    single = "$A:0"
    if adds_bos:
        single = f"{tokenizer.bos_token}:0 {single}"
        tokens[tokenizer.bos_token] = tokenizer.bos_token_id
    if append_eos:
        single = f"{single} {tokenizer.eos_token}:0"
        tokens[tokenizer.eos_token] = tokenizer.eos_token_id
    pair = f"{single} {single.replace('$A', '$B').replace(':0', ':1')}"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=single, pair=pair, special_tokens=list(tokens.items())
    )
