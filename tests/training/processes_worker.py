"""Trains the runs of `test_processes.py`; started once alone and once on two processes."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


RUNS = {
    # 28 pairs in steps of 8: the last has 4, in two micro-batches; pairs share texts of the LM loss
    "lm": {"lm_loss_coef": 0.3, "lm_score_threshold": 0.3, "center_rewards_coefficient": 0.01},
    "prompt": {"pair_weighting": "prompt", "group_by_prompt": False, "padding_side": "left"},
    # The last step has two pairs of one prompt: the second process has nothing to compute
    "empty": {"lm_loss_coef": 0.3, "pairs_per_step": 26, "per_device_train_batch_size": 13},
    # Filled by tokens: the processes get different numbers of pairs
    "shared": {"batch_layout": "shared", "max_tokens_per_batch": 128, "lm_loss_coef": 0.3, "pairs_per_step": 10},
    # A stream in two shards; a step is a whole pass, so the order does not matter
    "stream": {"max_steps": 3, "pairs_per_step": 28, "per_device_train_batch_size": 14, "lm_loss_coef": 0.3},
    # The last process runs out of memory in the second micro-batch of a step; all processes compute the step again
    "retry": {"auto_find_batch_size": True, "pairs_per_step": 16, "per_device_train_batch_size": 4},
    "average": {"pooling_type": "average", "per_device_eval_batch_size": 1},
}


def train(base: str, rows: Path, output: Path, name: str) -> dict:
    """Trains one run; returns losses, metrics and final weights."""
    from datasets import Dataset

    from rm_toolkit.training.config import RewardModelConfig
    from rm_toolkit.training.trainer import RewardModelTrainer

    data = json.loads(rows.read_text(encoding="utf-8"))
    options = {"pairs_per_step": 8, "per_device_train_batch_size": 2, **RUNS[name]}
    args = RewardModelConfig(
        output_dir=str(output / name),
        use_cpu=True,
        gradient_checkpointing=False,
        report_to="none",
        disable_tqdm=True,
        logging_steps=1,
        eval_on_start=True,
        eval_strategy="epoch",
        save_strategy="epoch",
        num_train_epochs=2,
        max_length=64,
        learning_rate=0.05,
        optim="sgd",  # AdamW turns a gradient of 1e-9 into a full step of its sign
        **options,
    )
    evaluation = {key: Dataset.from_list(data[key]) for key in ("pairs", "ranked")}
    training = Dataset.from_list(data["train"])
    if name == "stream":
        training = training.to_iterable_dataset(num_shards=2)
    trainer = RewardModelTrainer(base, args, training, evaluation)
    if name == "retry":
        run_out_of_memory(trainer)
    trainer.train()
    weights = {key: value.flatten()[:50].tolist() for key, value in trainer.model.state_dict().items()}
    logs = [log for log in trainer.state.log_history if "loss" in log or "eval_pairs_loss" in log]
    return {"processes": trainer.accelerator.num_processes, "logs": logs, "weights": weights}


def run_out_of_memory(trainer) -> None:
    """Makes the last process run out of memory with more than two pairs, from its second micro-batch on."""
    import torch

    last, calls = trainer.accelerator.process_index == trainer.accelerator.num_processes - 1, []

    def limit(model, inputs):
        calls.append(len(inputs[0].reward_index) / 2)
        if last and model.training and len(calls) > 1 and calls[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    trainer.model.register_forward_pre_hook(limit)


def main(base: str, rows: str, output: str) -> None:
    """Trains all runs and writes their results."""
    results = {name: train(base, Path(rows), Path(output), name) for name in RUNS}
    if os.environ.get("RANK", "0") == "0":
        Path(output, "results.json").write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    from rm_toolkit.training.runtime import run_main

    run_main(lambda: main(*sys.argv[1:]))()  # leaves the process group before Python is torn down
