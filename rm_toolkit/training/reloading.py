"""Checks that a saved model gives the same rewards as in training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..batches.rendering import RefusedText
from ..batches.scored_texts import tokenize_texts
from ..batches.tokenization import TokenizedPreferences
from ..scoring.example import ScoredExample, example_text, write_example
from ..scoring.reload_check import TOLERANCE, check_reload, check_texts
from .config import RewardModelConfig


def check_saved_model(
    folder: str,
    samples: list[tuple[Any, Any]],
    tokenizer: PreTrainedTokenizerBase,
    args: RewardModelConfig,
    compute_rewards: Callable[[TokenizedPreferences], np.ndarray],
    low_precision: bool = False,
) -> int:
    """
    Loads a saved folder in a fresh process and compares rewards of raw texts, one of them over-long, and of the
    example, which is stored in the folder with its reward.

    Args:
        folder (`str`): The saved folder.
        samples (`list`): Prompts and responses of a few texts.
        tokenizer (`PreTrainedTokenizerBase`): That of the run.
        args (`RewardModelConfig`): Settings of the run.
        compute_rewards (`Callable`): Returns rewards of tokenized texts by the model in memory; called by all
            processes.
        low_precision (`bool`): Whether the weights themselves are in bf16 or fp16.

    Returns:
        `int`: Number of the samples compared.

    Raises:
        `InputError`: if a reward differs by more than 1e-5 (fp32 on a CPU; 1e-3 in fp32 elsewhere, 2e-2 under autocast or
            with weights in half precision).
    """
    texts = check_texts(samples, args.max_length)
    options = {"max_length": args.max_length, "data_format": args.data_format, "name": "reload check"}
    example = _readable_example(tokenizer, options)
    data, numbers = tokenize_texts([*texts, *example], tokenizer, **options)
    rewards = compute_rewards(data)[numbers].tolist()
    if args.should_save:
        raw = [p + t for p, t in [*texts, *example]]
        # The fresh process computes in fp32 on a CPU: the same kernels, those of a GPU, or half precision here.
        tolerance = TOLERANCE if args.device.type == "cpu" else 1e-3
        tolerance = 2e-2 if args.autocast or low_precision else tolerance
        found = check_reload(folder, raw, rewards, tolerance=tolerance, trust_remote_code=args.trust_remote_code)
        for prompt, completion in example:
            write_example(folder, ScoredExample(prompt, completion, found[-1]))
    return len(texts)


def _readable_example(tokenizer: PreTrainedTokenizerBase, options: dict[str, Any]) -> list[tuple[Any, Any]]:
    """The example, unless the chat template refuses it (for instance, because it needs a system turn)."""
    text = example_text(options["data_format"])
    try:
        tokenize_texts([text], tokenizer, **options)
    except RefusedText:
        return []
    return [text]
