"""`RewardModelTrainer`: TRL's RewardTrainer with exact step weights, an LM loss, and metrics counted per test set."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from accelerate.utils import DistributedType
from datasets import Dataset, DatasetDict, IterableDataset
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from trl import RewardTrainer

from ..batches.collator import MicroBatch, PreferenceCollator
from ..batches.epoch_plan import take_only
from ..batches.replay_plan import join
from ..batches.stream import PreferenceStream
from ..batches.tokenization import TokenizedPreferences, tokenize_preferences, tokenize_rows
from ..errors import InputError
from ..losses import anchor_loss, centering_loss, ranking_loss
from ..models.adapter_files import tokenizer_source
from ..models.heads import is_encoder
from ..models.reward_model import RewardModel
from ..models.settings import RewardModelSettings
from ..models.shared_prompts.choice import choose_layout
from ..models.tokenizer import check_fits_model, load_tokenizer, prepare_tokenizer
from .anchor import AnchorCallback
from .best_model import check_best_metric
from .checkpoint import CheckpointMixin
from .config import RewardModelConfig
from .display import RunProgressCallback, describe_truncation
from .engines import EngineMixin
from .evaluation_loop import EvaluationMixin
from .publishing import PublishMixin
from .run_content import Base
from .step_loader import EpochCallback, StepLoaderMixin
from .step_log import StepLogMixin
from .survival import SurvivalMixin
from .wrapping import as_reward_model


class RewardModelTrainer(
    SurvivalMixin,
    PublishMixin,
    EngineMixin,
    StepLoaderMixin,
    CheckpointMixin,
    EvaluationMixin,
    StepLogMixin,
    RewardTrainer,
):
    """
    Trains a reward model on pairs or ranked responses.

    Every optimizer step is planned as a whole: its losses are sums over all micro-batches of all processes, divided
    once. Test sets are scored by their distinct texts, and their metrics are counts until the last division.

    Args:
        model (`str`, `PreTrainedModel` or `RewardModel`): Base model, reward model, or a stock sequence classifier.
        args (`RewardModelConfig`): Configuration.
        train_dataset (`datasets.Dataset` or `IterableDataset`): Preference rows: pairs (`chosen`, `rejected`) or ranked
            (`completions`, `scores`), with or without `prompt`, strings or messages. A stream needs `max_steps`.
        eval_dataset (`Dataset` or `dict[str, Dataset]`, *optional*): Test sets; each is counted by itself.
        processing_class (`PreTrainedTokenizerBase`, *optional*): Defaults to the tokenizer saved with the model.
        peft_config (`PeftConfig`, *optional*): Trains an adapter; the reward head is trained and saved with it.
        replay_dataset (`datasets.Dataset`, *optional*): General preferences, of which `general_replay_fraction` takes.
        require_head (`bool`): Whether a checkpoint without a reward head is an error, as in customized fine-tuning.
        settings (`RewardModelSettings`, *optional*): Stage, domain and lineage to record.
        callbacks, optimizers: As in `transformers.Trainer`.
    """

    _tag_names = ["rm-toolkit", "trl", "reward-model"]
    _name = "Reward model"
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: str | PreTrainedModel | RewardModel,
        args: RewardModelConfig,
        train_dataset: Dataset | IterableDataset,
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
        _refuse_unused(kwargs)
        check_best_metric(args, eval_dataset, callbacks)
        name = model if isinstance(model, str) else getattr(model, "name_or_path", "")
        self.run_base = Base.of(model, args.model_init_kwargs)
        self.owns_lineage = bool(settings and settings.lineage)
        model = as_reward_model(model, args, settings, require_head, new_adapter=peft_config is not None)
        self.model_is_encoder = is_encoder(model.base_classifier)
        if processing_class is None:
            source, revision = tokenizer_source(name, model.revision)
            processing_class = load_tokenizer(source, revision=revision, trust_remote_code=args.trust_remote_code)
        check_fits_model(processing_class, model.config, name)
        prepare_tokenizer(
            processing_class,
            model.config,
            max_length=args.max_length,
            pooling_type=args.pooling_type,
            data_format=args.data_format,
        )
        model.resize_token_embeddings(len(processing_class))
        if peft_config is not None:
            model.add_adapter(peft_config, seed=args.seed)
        self.pairs_per_step = args.pairs_per_step
        # One batch of our loader is a whole optimizer step, so that its denominators are known before it begins; to
        # the Trainer's loop there is nothing to accumulate.
        args = copy.copy(args)
        args.gradient_accumulation_steps = 1
        args.model_init_kwargs = None
        if isinstance(train_dataset, IterableDataset):
            args.ignore_data_skip = True  # the position in a stream is restored, not counted off
        self.sample_texts: list[tuple[Any, Any]] = []
        self.batch_layout = "plain"
        super().__init__(
            model=model,
            args=args,
            data_collator=take_only,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            **kwargs,
        )
        self.train_data, self.replay_data = self.train_dataset, None
        if args.general_replay_fraction:
            if replay_dataset is None:
                raise InputError(
                    f"`general_replay_fraction` is {args.general_replay_fraction:g}, but there is nothing to replay. "
                    "Name general preferences: --replay_datasets NAME=SPEC (in Python, `replay_dataset`)."
                )
            self.replay_data = self._prepare_dataset(replay_dataset, processing_class, args, "replay")
            self.train_data = join(self.train_dataset, self.replay_data)
        self._choose_layout()
        self.add_callback(EpochCallback(self))
        self.prepare_to_survive(train_dataset, replay_dataset)
        if args.anchor_coef:
            self.add_callback(AnchorCallback(self))
        for default in (ProgressCallback, PrinterCallback):
            self.remove_callback(default)
        self.add_callback(RunProgressCallback(show_bar=not args.disable_tqdm))

    def _choose_layout(self) -> None:
        tests = self.eval_dataset.values() if isinstance(self.eval_dataset, dict) else [self.eval_dataset]
        self.batch_layout = choose_layout(
            self.args.batch_layout,
            self.model,
            [data for data in (getattr(self, "stream_sample", self.train_data), *tests) if data is not None],
            self._collator(),
            pairs_per_batch=self.args.per_device_train_batch_size,
            device=self.args.device,
        )

    def _prepare_dataset(
        self, dataset: Any, processing_class: PreTrainedTokenizerBase, args: RewardModelConfig, dataset_name: str
    ) -> TokenizedPreferences | PreferenceStream:
        if isinstance(dataset, TokenizedPreferences | PreferenceStream):
            return dataset
        options = {
            "max_length": args.max_length,
            "data_format": args.data_format,
            "lm_score_threshold": args.lm_score_threshold,
            "lm_target_eos": args.lm_loss_coef > 0,
            "name": dataset_name,
            "keep_equal": dataset_name != "train",
            "find_completions": args.lm_loss_coef > 0 and args.lm_loss_on == "completion",
        }
        if isinstance(dataset, IterableDataset):
            return self._prepare_stream(
                dataset, partial(tokenize_rows, tokenizer=processing_class, checked=set(), **options), args
            )
        if len(dataset):
            self._keep_samples(dataset[0])
        show_progress = not args.disable_tqdm and args.should_log
        data = tokenize_preferences(dataset, processing_class, show_progress=show_progress, **options)
        if data.num_truncated and args.should_log:
            tqdm.write(describe_truncation(data, args.max_length))
        if not len(data):
            raise InputError(
                f"data set '{dataset_name}' has {len(dataset)} rows but not one pair with a preference "
                f"({data.num_label_ties} ties). Check its scores, or leave it out."
            )
        return data

    def _keep_samples(self, row: Mapping[str, Any]) -> None:
        """Keeps the texts of the first row that is prepared, for the reload check."""
        if self.sample_texts:
            return
        responses = row["completions"] if "completions" in row else [row["chosen"], row["rejected"]]
        prompt = row.get("prompt")
        self.sample_texts = [(type(text)() if prompt is None else prompt, text) for text in responses]

    def _send_telemetry(self) -> None:
        """Nothing is reported to anybody."""

    def _collator(self, lm_loss_on: str | None = None) -> PreferenceCollator:
        # Encoders count positions from the first token, each in its own way; `cls` reads there.
        side = "right" if self.model_is_encoder else self.args.padding_side
        return PreferenceCollator(
            self.processing_class.pad_token_id,
            side,
            self.args.pad_to_multiple_of,
            lm_loss_on=lm_loss_on,
            layout=self.batch_layout,
        )

    def get_total_train_batch_size(self, args: RewardModelConfig) -> int:
        """Pairs of one optimizer step, over all processes."""
        return self.pairs_per_step

    def training_step(
        self, model: torch.nn.Module, inputs: list[MicroBatch], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """
        Forward and backward over the micro-batches of one optimizer step.

        Returns:
            `torch.Tensor`: The step's loss times this process's share, scaled so that the mean over processes is the
            loss of the whole step.
        """
        model.train()
        deepspeed = self.accelerator.distributed_type == DistributedType.DEEPSPEED
        total = torch.zeros((), device=self.args.device)
        for number, batch in enumerate(inputs):
            last = number == len(inputs) - 1
            self.accelerator.gradient_state._set_sync_gradients(last)
            sync = contextlib.nullcontext() if last or deepspeed else self.accelerator.no_sync(model)
            with sync, self.maybe_activation_offload_context:
                with self.compute_loss_context_manager():
                    loss = self.compute_loss(model, batch.to(self.args.device))
                if last and deepspeed:  # whose backward pass ends with the optimizer's step
                    self.check_step(total + loss.detach())
                self.accelerator.backward(loss, **({"scale_wrt_gas": False} if deepspeed else {}))
            total += loss.detach()
        self._steps_counted += 1
        self.step_loss = total
        return total

    def compute_loss(
        self, model: torch.nn.Module, inputs: MicroBatch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """
        The share of one micro-batch in the step's loss: weights are already divided by the counts of the whole step.

        Engines average gradients over processes; the factor `num_processes` makes that average the sum it should be.
        """
        args = self.args
        rewards, lm_losses = model(inputs)
        rank = (inputs.pair_weight * ranking_loss(rewards, inputs.better, inputs.worse, inputs.margin)).sum()
        loss = rank + 0.0 * rewards.sum()  # an empty micro-batch still has a gradient: zero, for every parameter
        if args.center_rewards_coefficient is not None:
            centering = (inputs.pair_weight * centering_loss(rewards, inputs.better, inputs.worse)).sum()
            loss = loss + args.center_rewards_coefficient * centering
        anchor = torch.zeros((), device=rewards.device)
        if inputs.anchor_margin is not None:
            anchor = (
                anchor_loss(rewards, inputs.better, inputs.worse, inputs.anchor_margin).sum() * inputs.anchor_weight
            )
            loss = loss + args.anchor_coef * anchor
        lm = inputs.lm_weight * lm_losses.sum()
        if self.lm_loss_coef > 0:
            loss = loss + self.lm_loss_coef * lm
        if model.training:
            self._count(inputs, rewards.detach(), rank.detach(), lm.detach(), anchor.detach())
        loss = loss * self.accelerator.num_processes
        return (loss, {"rewards": rewards}) if return_outputs else loss

    @property
    def lm_loss_coef(self) -> float:
        """Weight of the LM loss."""
        return self.args.lm_loss_coef


def _refuse_unused(options: dict[str, Any]) -> None:
    """What TRL's trainer takes and this one would silently leave aside."""
    for name in ("compute_metrics", "preprocess_logits_for_metrics"):
        if options.get(name) is not None:
            raise InputError(
                f"`{name}` is not used: test sets are scored by their distinct texts, and no predictions of batches "
                "exist. Leave it out, and read `trainer.compute_rewards(data)` for metrics of your own."
            )
