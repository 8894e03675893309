"""How a trainer scores test sets: rewards of distinct texts, and the metrics of each set."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

import numpy as np
from transformers.trainer_utils import PredictionOutput

from ..batches.collator import PreferenceCollator
from ..batches.tokenization import TokenizedPreferences
from ..evaluation.pair_rewards import PairRewards
from ..scoring.rewards import compute_rewards
from .curve_sample import sets_of_a_call
from .engines import EngineHooks
from .evaluation_loop import evaluate_sets, evaluating, sets_by_name
from .retry import StepRetry
from .stopping import Stop, StopEvaluation
from .upstream import TrainerHooks


class ScoringTrainer(EngineHooks, TrainerHooks):
    """
    Scores test sets by their distinct texts; the attributes of the steps are set by
    [`~rm_toolkit.training.step_trainer.StepTrainer`].
    """

    copies: Any  # weights in half precision, or `None`
    curve_sets: dict[str, TokenizedPreferences]
    retry: StepRetry
    stop: Stop
    collator: Callable[..., PreferenceCollator]
    prepare_data: Callable[[Any, str], Any]
    pair_rewards: dict[str, PairRewards]  # of the last evaluation of each test set in this process

    def test_sets(self) -> dict[str, Any]:
        """Test sets by name; one without a name is called `eval`."""
        tests = self.eval_dataset
        return tests if isinstance(tests, dict) else {} if tests is None else {"eval": tests}

    def weights_cast_once(self) -> contextlib.AbstractContextManager[None]:
        """A context in which the weights do not change, so autocast does not cast them again in every forward pass."""
        return self.copies.used(keep_frozen=self.is_in_train) if self.copies else contextlib.nullcontext()

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """
        Scores every test set separately and logs all metrics at once, see [`evaluate_sets`].

        Args:
            eval_dataset (`Dataset`, `dict[str, Dataset]` or `str`, *optional*): Defaults to the trainer's test sets; a
                name chooses one of them.
            ignore_keys: Not used.
            metric_key_prefix (`str`): `eval` gives `eval_<name>_accuracy`, or `eval_accuracy` for a set without a name.
        """
        step, sets = self.state.global_step, sets_by_name(eval_dataset, self.eval_dataset)
        # Only for the loop's own evaluations: one that a callback requests is not postponed.
        of_the_loop = self.is_in_train and (self.control.should_evaluate or step == 0)
        if eval_dataset is None:
            sets = sets_of_a_call(sets, self.curve_sets, of_the_loop and 0 < step < self.state.max_steps)
        rewards = partial(self.compute_rewards, before_each=self.stop.check_evaluation if of_the_loop else None)
        found: dict[str, PairRewards] = {}
        try:
            metrics = evaluate_sets(sets, metric_key_prefix, self.prepare_data, rewards, found)
        except StopEvaluation:
            self.leave_evaluation()
        if eval_dataset is None:
            self.pair_rewards.update(found)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def predict(
        self, test_dataset: Any, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """
        Scores the pairs of a dataset.

        Args:
            test_dataset (`Dataset`): Preference rows.
            ignore_keys: Not used.
            metric_key_prefix (`str`): `test` gives `test_accuracy` etc.

        Returns:
            `PredictionOutput`: `predictions`, `np.ndarray` of shape `(num_pairs, 2)`: the rewards, in logits, of the better
            and of the worse response of each pair, in the order of the rows (for a ranked row, all its pairs);
            `label_ids`, `None`; and `metrics`, as [`evaluate`] counts them.

        Raises:
            `InputError`: if the rows are not preferences.
        """
        data = self.prepare_data(test_dataset, metric_key_prefix)
        rewards = self.compute_rewards(data)
        metrics = evaluate_sets(
            {"": data}, metric_key_prefix, lambda prepared, name: prepared, lambda prepared: rewards
        )
        self.control = self.callback_handler.on_predict(self.args, self.state, self.control, metrics)
        return PredictionOutput(np.stack([rewards[data.better], rewards[data.worse]], axis=1), None, metrics)

    def leave_evaluation(self) -> NoReturn:
        """Called if a signal ends an evaluation of the loop."""
        self.stop.leave(self.state.global_step, None)

    def compute_rewards(self, data: TokenizedPreferences, before_each: Callable[[int], None] | None = None) -> Any:
        """
        Rewards of all sequences of a tokenized dataset, on every process.

        Args:
            data (`TokenizedPreferences`): The set.
            before_each (`Callable`, *optional*): Called with the number of each batch, on all processes; may raise.

        Returns:
            `np.ndarray` of shape `(num_sequences,)`, in logits.
        """
        args = self.args
        # DeepSpeed and FSDP shard the weights, so their wrapper must be called; DDP would only add synchronisation.
        model = self.model_wrapped if self.is_deepspeed_enabled or self.is_fsdp_enabled else self.model
        options = {
            "tokens_per_batch": 2 * args.per_device_eval_batch_size * args.max_length,
            "show_progress": not args.disable_tqdm and self.is_local_process_zero(),
            "before_each": before_each,
        }
        # `train` prepares the model: only then does it have autocast around it, which a second one does not change.
        autocast = self.accelerator.autocast()
        with evaluating(model), self.weights_cast_once(), autocast, self.compute_loss_context_manager():
            halves = {"on_out_of_memory": self.retry.said_of_scoring}
            parts = {"device": args.device, "accelerator": self.accelerator, **halves}
            return compute_rewards(model, data, self.collator(), **parts, **options)
