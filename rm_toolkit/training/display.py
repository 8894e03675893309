"""What a run prints: one bar, one short line per log, one short line per test set."""

from __future__ import annotations

from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback

from ..batches.tokenization import TokenizedPreferences
from ..output.progress import no_bar, say


class RunProgressCallback(TrainerCallback):
    """
    A progress bar with one readable line for each log, instead of a dictionary.

    Args:
        show_bar (`bool`): Whether to draw the bar on a terminal; the lines are printed either way.
    """

    def __init__(self, show_bar: bool = True):
        self.show_bar = show_bar
        self.bar: tqdm | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        if state.is_world_process_zero and not no_bar(self.show_bar):
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, unit="step", dynamic_ncols=True)

    def on_step_end(self, args, state, control, **kwargs):
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not state.is_world_process_zero or not logs:
            return
        for line in describe(logs, state.global_step, state.max_steps):
            say(line, stands_out="loss" not in logs)  # an evaluation among the logs of training

    def on_train_end(self, args, state, control, **kwargs):
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def describe(logs: dict[str, Any], step: int, max_steps: int) -> list[str]:
    """
    Lines for one log: one for a training log, one per test set for an evaluation, none for anything else.

    Args:
        logs (`dict[str, Any]`): Logs as the trainer makes them.
        step (`int`): Optimizer step.
        max_steps (`int`): Steps of the run.
    """
    if "loss" in logs:
        names = ("loss", "rank_loss", "lm_loss", "accuracy", "margin", "grad_norm", "learning_rate")
        parts = [f"{name} {logs[name]:.4g}" for name in names if name in logs]
        if "lm_loss" not in logs:
            parts = [part for part in parts if not part.startswith("rank_loss")]
        return [f"step {step}/{max_steps}  " + "  ".join(parts)]
    lines = []
    for key, value in logs.items():
        if not key.endswith("_accuracy") or key.endswith("_first_two_accuracy"):
            continue
        prefix = key[: -len("accuracy")]
        if prefix + "margin" not in logs:  # from another trainer
            continue
        name = prefix.removeprefix("eval_").rstrip("_") or "eval"
        ties = f", {logs[prefix + 'num_ties']} ties" if logs.get(prefix + "num_ties") else ""
        lines.append(
            f"step {step}/{max_steps}  {name:<22} accuracy {value:.4f}  margin {logs[prefix + 'margin']:+.3f}  "
            f"loss {logs[prefix + 'loss']:.4f}  ({logs[prefix + 'num_pairs']} pairs{ties})"
        )
    return lines


def describe_truncation(data: TokenizedPreferences, max_length: int) -> str:
    """
    One line that says how much of a dataset is cut off.

    Args:
        data (`TokenizedPreferences`): The dataset.
        max_length (`int`): Most tokens per text.
    """
    return (
        f"dataset '{data.name}': {data.num_truncated:,} of {data.num_sequences:,} texts are longer than `max_length` "
        f"{max_length} and were cut; {data.num_truncated_tokens:,} tokens at their beginning are not read"
    )
