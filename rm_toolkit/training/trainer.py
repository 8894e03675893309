"""`RewardModelTrainer`: TRL's RewardTrainer with exact step weights, an LM loss, and metrics counted per test set."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from datasets import Dataset, DatasetDict, IterableDataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import SaveStrategy, TrainOutput

from ..models.liger import check_liger
from ..models.reward_model import RewardModel
from ..models.settings import RewardModelSettings
from .best_model import check_best_metric
from .chat_date import inherit_date
from .checkpoints import Checkpoints
from .config import RewardModelConfig
from .disk_errors import named_disk_errors
from .display import RunProgressCallback
from .engines import BiasCorrectionCallback
from .output_dir import hold_output_dir
from .parts import RunParts
from .publishing import check_hub_strategy, open_repository, publish_result, repository_of
from .reloading import check_saved_model
from .results import Results, last_evaluated_step, results_of, write_results
from .resume_checks import identify_run
from .resume_from import checked_checkpoint
from .run_callback import RunCallback
from .run_content import Base
from .run_files import RecordReports
from .run_identity import RunIdentity
from .run_progress import RunFinished, whole_run_speed
from .running_log import RunningLog, log_of
from .sized_trainer import SizedTrainer
from .stopping import RunStopped
from .trl_arguments import settle_arguments
from .upstream import for_this_call
from .weights import load_weights, save_weights
from .wrapping import open_model


class RewardModelTrainer(SizedTrainer):
    """
    Trains a reward model on pairs or ranked responses.

    Every optimizer step is planned as a whole: its losses are sums over all micro-batches of all processes, divided
    once. Test sets are scored by their distinct texts, and their metrics are counts until the last division.

    Args:
        model (`str`, `PreTrainedModel` or `RewardModel`): Base model, reward model, or a stock sequence classifier.
        args (`RewardModelConfig`, *optional*): Configuration; without one the output folder is `<model>-Reward`.
        train_dataset (`datasets.Dataset` or `IterableDataset`): Preference rows: pairs (`chosen`, `rejected`) or ranked
            (`completions`, `scores`), with or without `prompt`, strings or messages. A stream needs `max_steps`.
        eval_dataset (`Dataset` or `dict[str, Dataset]`, *optional*): Test sets; each is evaluated separately.
        processing_class (`PreTrainedTokenizerBase`, *optional*): Defaults to the tokenizer saved with the model.
        peft_config (`PeftConfig`, *optional*): Trains an adapter; the reward head is trained and saved with it.
        replay_dataset (`datasets.Dataset`, *optional*): General preferences for `general_replay_fraction`.
        require_head (`bool`): Whether a checkpoint without a reward head is an error, as in customized fine-tuning.
        settings (`RewardModelSettings`, *optional*): Stage, domain and lineage to record.
        callbacks, optimizers: As in `transformers.Trainer`.
    """

    def __init__(
        self,
        model: str | PreTrainedModel | RewardModel,
        args: RewardModelConfig | None = None,
        train_dataset: Dataset | IterableDataset | None = None,
        eval_dataset: Dataset | DatasetDict | dict[str, Dataset] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: Any | None = None,
        *,
        replay_dataset: Dataset | None = None,
        require_head: bool = False,
        settings: RewardModelSettings | None = None,
        callbacks: list[TrainerCallback] | None = None,
        **kwargs: Any,
    ):
        args, kwargs = settle_arguments(model, args, train_dataset, kwargs)
        check_best_metric(args, eval_dataset, callbacks)
        if args.use_liger_kernel:
            check_liger(args.device)
        self.run_base = Base.of(model, args.model_init_kwargs)
        self.owns_lineage = bool(settings and settings.lineage)
        self.data_content: dict[str, Any] = {}  # what a recipe knows about the content of its data
        model, processing_class = open_model(model, args, processing_class, peft_config, settings, require_head)
        args = args.for_one_batch_a_step(streaming=isinstance(train_dataset, IterableDataset))
        args.model_record = model.settings.record()
        data = {"train_dataset": train_dataset, "eval_dataset": eval_dataset, "replay_dataset": replay_dataset}
        super().__init__(model, args, processing_class, **data, callbacks=callbacks, **kwargs)
        saving = {
            "saves": args.should_save,
            "num_processes": args.world_size,
            "on_each_machine": args.save_on_each_node,
        }
        self.checkpoints = Checkpoints(args.output_dir, args.save_total_limit, **saving)
        self.run_identity: RunIdentity | None = None
        self.given_optimizers = (self.optimizer, self.lr_scheduler)
        self.logs_of_other_weights = 0
        self.run_callback = RunCallback(self)
        for default in (ProgressCallback, PrinterCallback):
            self.remove_callback(default)
        progress = RunProgressCallback(show_bar=not args.disable_tqdm)
        others = (RecordReports(args.output_dir), RunningLog(self), progress)
        for callback in (BiasCorrectionCallback(), self.run_callback, *others):
            self.add_callback(callback)

    # ---- the run ----

    def train(self, resume_from_checkpoint: str | bool | None = None, **options: Any) -> TrainOutput:
        """
        Trains, or resumes from a checkpoint in `output_dir` as if the run had never stopped.

        SIGTERM makes all processes write a checkpoint at the end of the same step and exit with code 143; SIGINT does
        the same and raises `KeyboardInterrupt`.

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*): The checkpoint; `True` uses the newest complete one.
            **options: As in `transformers.Trainer.train`.

        Raises:
            `InputError`: if another process writes `output_dir`, the checkpoint cannot be resumed from or was made with
                other data or settings, a loss is not finite, or the disk is full.
        """
        args = self.args
        check_best_metric(args, self.eval_dataset, self.callback_handler.callbacks)
        with hold_output_dir(args.output_dir):
            folder = checked_checkpoint(resume_from_checkpoint, args.output_dir)
            saves = args.save_strategy != SaveStrategy.NO
            inherit_date(self, folder)
            self.choose_micro_batches(folder)
            self.run_identity = identify_run(self.parts(), folder) if folder or saves else None
            self.run_callback.folder = folder
            self.checkpoints.begin_run(folder)
            self.accelerator.wait_for_everyone()
            # The start of a resumed run is in its log already.
            at_start = for_this_call(args, eval_on_start=args.eval_on_start and not folder)
            with self.stop.listen(), at_start:
                try:
                    with named_disk_errors(args.output_dir):
                        return super().train(resume_from_checkpoint=folder, **options)
                except RunFinished:
                    return self.end_training(self.run_callback.begin)
                except (RunStopped, KeyboardInterrupt):
                    self.callback_handler.on_train_end(args, self.state, self.control)
                    raise

    def parts(self) -> RunParts:
        """The parts of the run, for its record."""
        return RunParts(
            self.args,
            self.model,
            self.data,
            self.test_sets(),
            self.run_base,
            self.accelerator,
            self.batch_layout,
            given_optimizers=self.given_optimizers,
            content=self.data_content,
            **self.steps.recorded(),
            owns_lineage=self.owns_lineage,
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As in the base class; a resumed run logs the speeds of the whole run at its end."""
        whole_run_speed(logs, self.run_callback.seconds_before)
        super().log(logs, start_time)

    # ---- checkpoints ----

    def save_checkpoint(self) -> None:
        """Writes the checkpoint of this step unless it exists, and exits if the run is to stop."""
        step, args = self.state.global_step, self.args
        folder = self.checkpoints.folder(step)
        if step != self.checkpoints.saved_step:
            self.checkpoints.begin(step)
            self.accelerator.wait_for_everyone()
            with named_disk_errors(args.output_dir, folder):
                self.write_trainer_state()
                if not args.save_only_model:
                    self.steps.save(folder)
                progress = self.run_callback.progress()
                self.run_identity = self.run_identity or identify_run(self.parts(), None)
                self.run_identity.settings |= self.steps.recorded()
                if args.should_save:
                    progress.save(folder)
                    self.run_identity.save(folder)
                self.accelerator.wait_for_everyone()
                self.checkpoints.seal(step, self.checkpoints.seen_by_all(step))
            self.checkpoints.rotate(step, self.state.best_model_checkpoint)
            # A launcher ends the others as soon as the first process has exited.
            self.accelerator.wait_for_everyone()
        if self.stop.signal:
            self.stop.leave(step, folder)

    def leave_evaluation(self) -> NoReturn:
        """Saves, postpones the evaluation to the resumed run, and exits."""
        step = self.state.global_step
        if step == 0 or self.args.save_strategy == SaveStrategy.NO:
            self.stop.leave(step, None)
        # The checkpoint of this step, if it exists, already records that the evaluation is still to be done.
        if step != self.checkpoints.saved_step:
            self.stop.evaluation_put_off = self.control.should_save = True
        self.save_checkpoint()
        raise AssertionError("a run that was told to stop has continued")

    def save_weights(self, folder: str, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """Writes the model, on the process that saves."""
        if self.args.should_save:
            model, merge = self.accelerator.unwrap_model(self.model), self.args.merge_adapter
            save_weights(model, folder, self.processing_class, state_dict=state_dict, merge_adapter=merge)

    def load_weights(self, folder: str, model: torch.nn.Module) -> None:
        """Reads the weights of a checkpoint."""
        load_weights(self.accelerator.unwrap_model(model), folder)

    def before_other_weights(self) -> None:
        """Called before the weights of the best checkpoint are loaded: evaluations so far are not for them."""
        self.logs_of_other_weights = len(self.state.log_history)

    # ---- results ----

    def results(self, step: int | None = None) -> Results:
        """Metrics of each test set at one step, by default the last evaluated one, from the log: see [`results_of`]."""
        return results_of(self.state.log_history, self.test_sets(), step)

    def evaluated_step(self) -> int | None:
        """Step of the last evaluation of the whole sets, or `None`; none before the best model was loaded counts."""
        return last_evaluated_step(self.state.log_history[self.logs_of_other_weights :], self.test_sets())

    def save_results(self) -> dict[str, Results]:
        """
        Writes `final_eval_results.json`: every test set at the start and at the end of training; and
        `training_log.json`: everything that was logged, for learning curves; and rewards, see [`write_final_pairs`].
        """
        results = {"start": self.results(step=0), "end": self.results()}
        if self.args.should_save:
            write_results(self.args.output_dir, results, log_of(self), self.pair_rewards)
        return results

    def reload_check(self, folder: str | None = None) -> int:
        """Opens the saved folder in a fresh process and compares rewards of raw texts: see [`check_saved_model`]."""
        folder = folder or self.args.output_dir
        model = self.accelerator.unwrap_model(self.model)
        low = any(weight.dtype in (torch.bfloat16, torch.float16) for weight in model.parameters())
        run = (self.sample_texts, self.processing_class, self.args, self.compute_rewards)
        count = check_saved_model(folder, *run, low_precision=low)
        self.accelerator.wait_for_everyone()
        return count

    # ---- publishing ----

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Creates the repository before the first step: see [`open_repository`]."""
        check_hub_strategy(self.args)
        if self.is_world_process_zero():
            self.hub_model_id = open_repository(self.args, token, private)

    def push_to_hub(
        self, commit_message: str | None = None, blocking: bool = True, token: str | None = None, **options: Any
    ) -> str | None:
        """
        Saves the model and its results, and publishes them, see [`publish`].

        Args:
            commit_message, token, **options (*optional*): As in [`publish`].
            blocking: Not used; the upload ends before this returns.
        """
        self.save_model(_internal_call=True)
        self.save_results()
        return self.publish(commit_message, token=token, **options)

    def publish(
        self,
        message: str | None = None,
        *,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
    ) -> str | None:
        """
        Publishes what was saved, as `rm-toolkit push` does, on the main process: see [`publish_result`].

        Args:
            message (`str`, *optional*): Commit message.
            token, revision, private (*optional*): Default to `hub_token`, `hub_revision`, `hub_private_repo`.
        """
        if not self.is_world_process_zero():
            return None
        args = self.args
        return publish_result(
            args.output_dir,
            self.hub_model_id or repository_of(args),
            message=message,
            token=token or args.hub_token,
            revision=revision or args.hub_revision,
            private=private if private is not None else args.hub_private_repo,
        )
