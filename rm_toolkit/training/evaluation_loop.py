"""Evaluation inside a training run: every test set by itself, its rewards computed once for each distinct text."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from transformers.trainer_utils import speed_metrics

from ..batches.tokenization import TokenizedPreferences
from ..evaluation.metrics import preference_metrics
from ..scoring.rewards import compute_rewards


class EvaluationMixin:
    """Evaluation for [`~rm_toolkit.training.trainer.RewardModelTrainer`]."""

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """
        Scores every test set by itself and logs all metrics at once.

        Args:
            eval_dataset (`Dataset`, `dict[str, Dataset]` or `str`, *optional*): Defaults to the trainer's test sets; a
                name chooses one of them.
            ignore_keys: Not used.
            metric_key_prefix (`str`): `eval` gives `eval_<name>_accuracy`, or `eval_accuracy` for a set without a name.

        Returns:
            `dict[str, float]`: `accuracy`, `first_two_accuracy`, `margin`, `loss`, `reward_mean`, `reward_std`,
            `num_pairs`, `num_ties` and `num_label_ties` of each set.
        """
        sets = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(sets, str):
            sets = {sets: self.eval_dataset[sets]}
        if not isinstance(sets, dict):
            sets = {"": sets}
        begin = time.time()
        metrics: dict[str, float] = {}
        num_sequences = 0
        for name, dataset in sets.items():
            data = self._prepare_dataset(dataset, self.processing_class, self.args, name or "eval")
            prefix = f"{metric_key_prefix}_{name}" if name else metric_key_prefix
            values = dataclasses.asdict(preference_metrics(self.compute_rewards(data), data))
            metrics.update({f"{prefix}_{key}": value for key, value in values.items()})
            num_sequences += data.num_sequences
        metrics.update(speed_metrics(metric_key_prefix, begin, num_samples=num_sequences))
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def compute_rewards(self, data: TokenizedPreferences) -> Any:
        """
        Rewards of all sequences of a tokenised data set, on every process.

        Returns:
            `np.ndarray` of shape `(num_sequences,)`, in logits.
        """
        # DeepSpeed and FSDP shard the weights, so their wrapper must be called; DDP would only add synchronisation.
        sharded = self.is_deepspeed_enabled or self.is_fsdp_enabled
        model = self.model_wrapped if sharded else self.model
        was_training = model.training
        model.eval()
        try:
            with self.compute_loss_context_manager():
                return compute_rewards(
                    model,
                    data,
                    self._collator(),
                    tokens_per_batch=2 * self.args.per_device_eval_batch_size * self.args.max_length,
                    device=self.args.device,
                    accelerator=self.accelerator,
                    show_progress=not self.args.disable_tqdm and self.is_local_process_zero(),
                    before_each=self.check_evaluation,
                )
        finally:
            model.train(was_training)
