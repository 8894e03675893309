"""The four sides: TRL's RewardTrainer by default and with length-grouped sampling, our plain and our fast path."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, LlamaConfig, TrainerCallback, set_seed
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_pt_utils import get_length_grouped_indices
from trl import RewardConfig, RewardTrainer

from rm_toolkit.training.config import RewardModelConfig
from rm_toolkit.training.trainer import RewardModelTrainer

from .data import VOCAB_SIZE, Rows


TRL, TRL_GROUPED, PLAIN, FAST = "TRL", "TRL, by length", "plain", "fast"
SIDES = (TRL, TRL_GROUPED, PLAIN, FAST)

# Hidden size, MLP size, layers, heads, key/value heads. Heads have 64 dimensions or more, as GPU kernels require.
SHAPES = {
    "tiny": (64, 128, 1, 1, 1),
    "12M": (320, 864, 8, 5, 5),
    "28M": (512, 1376, 8, 8, 8),
    "1B": (2048, 8192, 16, 32, 8),
    "7B": (4096, 11008, 32, 32, 32),
}


@dataclass
class Setting:
    """
    Settings that all sides share.

    Args:
        tokenizer: The tokenizer.
        shape (`str`): A key of `SHAPES`.
        device (`str`): `"cpu"` or `"cuda"`.
        max_length (`int`): Maximum tokens per text.
        pairs_per_batch (`int`): Pairs per micro-batch.
        pairs_per_step (`int`): Pairs per optimizer step.
        lm_loss_coef (`float`): Weight of the LM loss, which TRL does not have.
        output_dir (`str`): Folder that the trainers require; nothing is written to it.
    """

    tokenizer: Any
    shape: str
    device: str
    max_length: int
    pairs_per_batch: int
    pairs_per_step: int
    output_dir: str
    lm_loss_coef: float = 0.0

    def config(self) -> LlamaConfig:
        hidden, inner, layers, heads, kv_heads = SHAPES[self.shape]
        return LlamaConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=hidden,
            intermediate_size=inner,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            max_position_embeddings=max(1024, self.max_length),
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=self.tokenizer.pad_token_id,
            num_labels=1,
            tie_word_embeddings=self.lm_loss_coef > 0,
        )

    def model(self) -> torch.nn.Module:
        """A model with the same random weights on every call."""
        set_seed(0)
        return AutoModelForSequenceClassification.from_config(self.config(), dtype=torch.float32)

    def arguments(self, seed: int) -> dict[str, Any]:
        """Training arguments for every side."""
        return {
            "output_dir": self.output_dir,
            "per_device_train_batch_size": self.pairs_per_batch,
            "per_device_eval_batch_size": self.pairs_per_batch,
            "gradient_accumulation_steps": self.pairs_per_step // self.pairs_per_batch,
            "num_train_epochs": 1,
            "learning_rate": 1e-5,
            "max_length": self.max_length,
            "bf16": self.device == "cuda",
            "use_cpu": self.device == "cpu",
            "gradient_checkpointing": False,
            "logging_steps": 1000,
            "report_to": "none",
            "save_strategy": "no",
            "disable_tqdm": True,
            "seed": seed,
        }


class Clock(TrainerCallback):
    """Wall and CPU time from the start of training to the end of the last step."""

    def __init__(self, device: str):
        self.device = device
        self.began = self.ended = (0.0, 0.0)

    def _now(self) -> tuple[float, float]:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()

    def on_train_begin(self, args, state, control, **kwargs):
        self.began = self._now()

    def on_step_end(self, args, state, control, **kwargs):
        self.ended = self._now()

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Prints nothing, unlike transformers' own callback."""


class Counted:
    """Wraps a collator and counts tokens with (`computed`) and without padding (`useful`)."""

    def __init__(self, make: Any):
        self.make = make
        self.computed = self.useful = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        batch = self.make(*args, **kwargs)
        for part in [batch] if hasattr(batch, "keys") else batch:
            if hasattr(part, "num_tokens"):
                self.computed += part.input_ids.numel()
                self.useful += part.num_tokens
            else:
                self.computed += part["input_ids"].numel()
                self.useful += int(part["attention_mask"].sum())
        return batch


def make_trainer(side: str, setting: Setting, rows: Rows, *, evaluation: Rows | None = None, seed: int = 0) -> Any:
    """
    Builds the trainer of one side and tokenizes its rows; `trainer.counted` counts the tokens that it computes.

    Args:
        side (`str`): One of `SIDES`.
        setting (`Setting`): Settings that all sides share.
        rows (`Rows`): Training rows.
        evaluation (`Rows`, *optional*): Evaluation rows.
        seed (`int`): Seed of the order of rows.
    """
    arguments = setting.arguments(seed)
    # Each trainer changes the tokenizer that it is given in its own way.
    tokenizer = copy.deepcopy(setting.tokenizer)
    if side in (TRL, TRL_GROUPED):
        trainer_class = GroupedRewardTrainer if side == TRL_GROUPED else RewardTrainer
        trainer = trainer_class(
            setting.model(),
            RewardConfig(**arguments),
            train_dataset=rows.pairs(),
            eval_dataset=evaluation.pairs() if evaluation else None,
            processing_class=tokenizer,
        )
    else:
        budget = {"max_tokens_per_batch": 2 * setting.max_length} if setting.pairs_per_batch == 1 else {}
        config = RewardModelConfig(
            **arguments,
            **(budget if side == FAST else {}),
            batch_layout="auto" if side == FAST else "plain",
            pooling_type="eos",  # token ids as TRL makes them: BOS, text, EOS
            lm_loss_coef=setting.lm_loss_coef,
        )
        trainer = RewardModelTrainer(
            setting.model(),
            config,
            train_dataset=rows.ranked(),
            eval_dataset=evaluation.ranked() if evaluation else None,
            processing_class=tokenizer,
        )
        if side == FAST and trainer.batch_layout != "shared":
            raise RuntimeError("the fast path is not in use: `auto` chose the plain layout")
    trainer.remove_callback(PrinterCallback)
    trainer.data_collator = trainer.counted = Counted(trainer.data_collator)
    return trainer


class GroupedRewardTrainer(RewardTrainer):
    """
    TRL with length-grouped sampling as it would work on a large dataset.

    The stock sampler sorts within 50 batches, but within fewer if there are few rows, so in a short timed run it would
    group nothing. This one sorts within 50 batches, or within all if there are fewer.
    """

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        tokens = [
            max(len(a), len(b)) for a, b in zip(self.train_dataset["chosen_ids"], self.train_dataset["rejected_ids"])
        ]
        batch_size = self.args.train_batch_size * self.args.gradient_accumulation_steps
        generator = torch.Generator().manual_seed(self.args.seed)
        return get_length_grouped_indices(tokens, batch_size, min(50, -(-len(tokens) // batch_size)), generator)
