"""Texts -> token ids: in batches, cut on the left, with counts of what was cut."""

from __future__ import annotations

from typing import Any

import numpy as np
from jinja2 import TemplateError
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from ..errors import InputError


BATCH_SIZE = 1024
Text = str | list[dict[str, str]]


def encode(
    texts: list[tuple[Text, Text]],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    data_format: str,
    name: str,
    show_progress: bool,
    *,
    find_completions: bool = True,
) -> dict[str, Any]:
    """
    Token ids of all texts. The backend is called directly: it encodes a batch in parallel and builds no masks.

    Args:
        texts (`list[tuple]`): (prompt, completion), strings or message lists.
        tokenizer, max_length, data_format, name, show_progress: As in
            [`~rm_toolkit.data.tokenization.tokenize_preferences`].
        find_completions (`bool`): Whether to find where each completion begins, which needs character offsets.

    Returns:
        `dict[str, Any]`: `ids`, `offsets`, `completion_start` and counts of what was cut.
    """
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    num_prefix = _num_special(tokenizer, data_format)
    pieces, lengths, starts = [], [], []
    num_truncated = num_truncated_tokens = 0
    progress = tqdm(
        total=len(texts), desc=f"Tokenizing {name}", unit="text", disable=not show_progress, leave=False, delay=2
    )
    for begin in range(0, len(texts), BATCH_SIZE):
        batch = texts[begin : begin + BATCH_SIZE]
        strings, prompt_lengths = render(batch, tokenizer, data_format)
        run = backend.encode_batch if find_completions else backend.encode_batch_fast
        for encoding, prompt_length in zip(run(strings, add_special_tokens=data_format == "text"), prompt_lengths):
            ids = encoding.ids
            start = _first_token_at(encoding, prompt_length) if find_completions else 0
            cut = max(0, len(ids) - max_length)
            if cut:
                num_truncated += 1
                num_truncated_tokens += cut
                ids = ids[:num_prefix] + ids[num_prefix + cut :]
                start = max(num_prefix, start - cut)
            pieces.append(np.array(ids, dtype=np.int32))
            lengths.append(len(ids))
            starts.append(min(start, len(ids)) if find_completions else 0)
        progress.update(len(batch))
    progress.close()
    return {
        "ids": np.concatenate(pieces) if pieces else np.zeros(0, np.int32),
        "offsets": np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64),
        "completion_start": np.array(starts, dtype=np.int32),
        "num_truncated": num_truncated,
        "num_truncated_tokens": num_truncated_tokens,
    }


def render(
    batch: list[tuple[Text, Text]], tokenizer: PreTrainedTokenizerBase, data_format: str
) -> tuple[list[str], list[int]]:
    """
    Returns the string that each (prompt, completion) is to the model, and the length of its prompt in characters.

    Text is prompt and completion in one; messages go through the tokenizer's chat template.
    """
    if data_format == "text":
        return [prompt + completion for prompt, completion in batch], [len(prompt) for prompt, _ in batch]
    try:
        strings = tokenizer.apply_chat_template([prompt + completion for prompt, completion in batch], tokenize=False)
        prompts = [
            tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True) if prompt else ""
            for prompt, _ in batch
        ]
    except TemplateError as error:
        raise InputError(
            f"the tokenizer's chat template refuses some of the messages: {str(error).rstrip('.')}. Change the data (its roles and their "
            "order), give a tokenizer with another template, or build the data with --format text."
        ) from error
    return strings, [len(p) if s.startswith(p) else 0 for s, p in zip(strings, prompts)]


def _num_special(tokenizer: PreTrainedTokenizerBase, data_format: str) -> int:
    """How many special tokens the tokenizer puts before a text; truncation keeps them."""
    if data_format == "chat":  # a template's BOS is text to the saved tokenizer, which cuts it with the rest
        return 0
    return tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"].index(0)


def _first_token_at(encoding: Any, position: int) -> int:
    """Index of the first token that ends after character `position` and is not special."""
    low, high = 0, len(encoding.ids)
    offsets, special = encoding.offsets, encoding.special_tokens_mask
    while low < high and special[low]:
        low += 1
    while low < high:
        middle = (low + high) // 2
        if special[middle] or offsets[middle][1] > position:
            high = middle
        else:
            low = middle + 1
    return low
