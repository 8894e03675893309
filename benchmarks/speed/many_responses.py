"""Cost of a step on one prompt with many responses: computed in two passes, and with the prompt's pairs split."""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, LlamaConfig, set_seed

from rm_toolkit.batches.filling import Filler
from rm_toolkit.batches.step_split import PLAN_VERSION, split_pairs
from rm_toolkit.batches.tokenization import TokenizedPreferences
from rm_toolkit.output.markdown import table
from rm_toolkit.testing import train_tokenizer
from rm_toolkit.training.config import RewardModelConfig
from rm_toolkit.training.trainer import RewardModelTrainer


REPEATS = 3
MOST_TIMED = 20  # responses; with 64, a step with split pairs takes minutes


def one_prompt(responses: int, prompt_tokens: int = 40, response_tokens: int = 60) -> TokenizedPreferences:
    """One prompt with `responses` ranked responses, each better than all after it."""
    length = prompt_tokens + response_tokens
    ids = np.random.default_rng(0).integers(10, 30_000, (responses, length), dtype=np.int32)
    ids[:, :prompt_tokens] = ids[0, :prompt_tokens]
    better, worse = np.triu_indices(responses, 1)
    none, zeros = np.zeros(len(better), dtype=bool), np.zeros(len(better), dtype=np.int32)
    return TokenizedPreferences(
        name="train", ids=ids.ravel(), offsets=np.arange(responses + 1) * length,
        completion_start=np.zeros(responses, dtype=np.int32), better=better.astype(np.int32),
        worse=worse.astype(np.int32), row=zeros, prompt=zeros, margin=None, lm_better=none, lm_worse=none,
        first_two=np.zeros((0, 2), dtype=np.int32),
    )  # fmt: skip


def passes(responses: int, pairs: int, once: bool) -> tuple[int, int]:
    """Numbers of responses in forward and in backward passes of the step; `once` computes it in two passes."""
    data = one_prompt(responses)
    split = split_pairs(data, Filler(data, pairs, shared=True, once=once), np.arange(len(data)))
    forward = backward = 0
    for number, chunk in enumerate(split.micro_batches):
        part = split.parts.get(number)
        count = len(np.unique([data.better[chunk], data.worse[chunk]])) if part is None else len(part.sequences)
        forward += count if part is None else 2 * count
        backward += count
    return forward, backward


def seconds(responses: int, pairs: int) -> tuple[float, float]:
    """CPU seconds of the passes of such a step with a small Llama: with the pairs split, and as it is now."""
    rng = random.Random(0)
    prompt, *texts = (" ".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=k)) for k in (40, *[60] * responses))
    row = {"prompt": f"{prompt} ", "completions": texts, "scores": [float(-k) for k in range(responses)]}
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = train_tokenizer([prompt], Path(folder, "tokenizer"), 300)
        tokenizer.pad_token = tokenizer.unk_token
        config = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=192, intermediate_size=512, num_hidden_layers=4,
            num_attention_heads=3, num_key_value_heads=3, num_labels=1, pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        set_seed(0)
        args = RewardModelConfig(
            output_dir=folder, per_device_train_batch_size=pairs, pairs_per_step=pairs * -(-(responses**2) // pairs),
            max_length=512, batch_layout="shared", use_cpu=True, bf16=False, gradient_checkpointing=False,
            report_to="none", save_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        trainer = RewardModelTrainer(
            AutoModelForSequenceClassification.from_config(config),
            args,
            train_dataset=Dataset.from_list([row]),
            processing_class=tokenizer,
        )
        found = []
        for version in (1, PLAN_VERSION):  # the rule of version 0.4.0 splits the pairs
            trainer.steps.plan_version = version
            (step,) = list(trainer.get_train_dataloader())
            found.append(_seconds_of(trainer, step))
    return found[0], found[1]


def _seconds_of(trainer: RewardModelTrainer, step: list) -> float:
    taken = []
    for _ in range(REPEATS + 1):  # the first run may include set-up
        begin = time.process_time()
        trainer.training_step(trainer.model, step)
        taken.append(time.process_time() - begin)
        trainer.model.zero_grad()
    return median(taken[1:])


def responses_table(sizes: tuple[int, ...] = (8, 20, 64), pairs: int = 8) -> str:
    """A table with a row per number of responses. Operations count a backward pass as two forward passes."""
    rows = []
    for size in sizes:
        two, split = passes(size, pairs, True), passes(size, pairs, False)
        costs = [forward + 2 * backward for forward, backward in (split, two)]
        cells = [f"{forward} + {backward}" for forward, backward in (split, two)]
        cells.append(f"{costs[0] / costs[1]:.1f}")
        taken = seconds(size, pairs) if size <= MOST_TIMED else None
        cells += ["", "", ""] if taken is None else [*(f"{one:.2f}" for one in taken), f"{taken[0] / taken[1]:.1f}"]
        rows.append([f"{size} responses, {size * (size - 1) // 2} pairs", *cells])
    columns = [f"{pairs} pairs a micro-batch", "pairs split: forward + backward", "now", "operations, times as many"]
    columns += ["CPU s of the step, pairs split", "now", "times as long"]
    return f"### Responses computed in the step of one prompt\n\n{table(columns, rows)}\n"


if __name__ == "__main__":
    print(responses_table(), flush=True)
