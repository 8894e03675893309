"""How steps are computed: the trainer without the state that outlasts a step."""

from __future__ import annotations

import contextlib
import math
from functools import partial
from typing import Any

import torch
from accelerate.utils import DistributedType
from accelerate.utils.memory import clear_device_cache
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from ..batches.collator import PreferenceCollator
from ..batches.epoch_plan import take_only
from ..batches.micro_batch import MicroBatch
from ..errors import InputError
from ..models.heads import is_encoder
from ..models.precision import AUTOCAST_DTYPES, compute_dtype
from ..models.reward_model import RewardModel
from ..models.shared_prompts.choice import choose_layout
from .config import RewardModelConfig
from .curve_sample import sample_sets
from .engines import read_engine
from .evaluation_loop import sets_by_name
from .finite import not_finite
from .head_rate import check_head_rate, give_head_its_rate
from .kernels import change_layers, check_kernels, compute_copies
from .meter import Meter
from .retry import StepRetry
from .scoring_trainer import ScoringTrainer
from .step_loss import coefficients, micro_batch_loss
from .steps import Steps, data_seed
from .stopping import Stop
from .training_data import Preparation
from .two_passes import TwoPasses
from .upstream import for_this_call


class StepTrainer(ScoringTrainer):
    """
    Plans every optimizer step as a whole, and scores test sets as [`~rm_toolkit.training.scoring_trainer.ScoringTrainer`].

    Args:
        model (`RewardModel`): The model.
        args (`RewardModelConfig`): From [`RewardModelConfig.for_one_batch_a_step`].
        processing_class (`PreTrainedTokenizerBase`): From [`~rm_toolkit.training.wrapping.open_model`].
        train_dataset, eval_dataset, replay_dataset, **kwargs: As in
            [`~rm_toolkit.training.trainer.RewardModelTrainer`].
    """

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: RewardModel,
        args: RewardModelConfig,
        processing_class: PreTrainedTokenizerBase,
        train_dataset: Any,
        eval_dataset: Any = None,
        replay_dataset: Any = None,
        **kwargs: Any,
    ):
        check_kernels(args, model.backbone)
        # Encoders count positions from the first token, each in its own way; `cls` pools the first token.
        self.padding_side = "right" if is_encoder(model.base_classifier) else args.padding_side
        self.preparation = Preparation(processing_class, args)
        self.batch_layout = "plain"
        super().__init__(
            model=model,
            args=args,
            data_collator=take_only,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            **kwargs,
        )
        config = getattr(self.accelerator.state.deepspeed_plugin, "hf_ds_config", None)
        check_head_rate(args.head_learning_rate, self.optimizer, config)
        self.test_sources = eval_dataset
        self._take_data(train_dataset, replay_dataset)
        self.meter = Meter(self.accelerator, lm_loss=self.lm_loss_coef > 0, anchor_loss=args.anchor_coef > 0)
        self.stop = Stop(self.accelerator)
        self.grad_norm: Any = None  # of the current step
        self.copies = compute_copies(model, self.accelerator, num_gpus=args.n_gpu)
        self._choose_kernels()

    train_data = property(lambda self: self.data.joined, doc="The training data, with the replayed data.")
    replay_data = property(lambda self: self.data.replay, doc="General pairs to replay, or `None`.")
    sample_texts = property(lambda self: self.data.samples, doc="Prompt and response of a few texts.")
    pairs_per_step = property(lambda self: self.args.pairs_per_step, doc="Pairs of one optimizer step.")
    lm_loss_coef = property(lambda self: self.args.lm_loss_coef, doc="Weight of the LM loss.")

    def _take_data(self, train: Any, replay: Any) -> None:
        shares = sample_sets(self.test_sources, self.args.eval_curve_fraction, data_seed(self.args))
        self.curve_sets = {name: self.prepare_data(rows, name) for name, rows in shares.items()}
        self.pair_rewards = {}
        self.data = self.preparation.gather(self.train_dataset, train, replay)
        self.steps = Steps(self.args, self.data.train, self.data.joined, self.accelerator)
        self.retry = StepRetry(self.accelerator, self.steps, self.args.computes_again)

    def read_data_again(self) -> None:
        """Tokenizes the given rows again, because the chat template has changed."""
        self.preparation = Preparation(self.processing_class, self.args)
        (train, replay), tests = self.data.sources, self.test_sources
        self.train_dataset = self.prepare_data(train, "train")
        if tests is not None:
            again = {name: self.prepare_data(test, name or "eval") for name, test in sets_by_name(tests, None).items()}
            self.eval_dataset = again if isinstance(tests, dict) else again[""]
        self._take_data(train, replay)

    def create_accelerator_and_postprocess(self) -> None:
        """As the engine's; accelerate would compile the whole model, heads included, and rename the weights."""
        with for_this_call(self.args, torch_compile_backend="no", torch_compile_mode=None):
            super().create_accelerator_and_postprocess()

    def _choose_kernels(self) -> None:
        args, precision = self.args, read_engine(self.accelerator).precision
        self.batch_layout, self.attention = choose_layout(
            args.batch_layout,
            self.model,
            [self.data.sample if self.data.is_stream else self.data.joined, *self.test_sets().values()],
            self.collator(),
            pairs_per_batch=args.per_device_train_batch_size,
            device=args.device,
            autocast=compute_dtype(precision) if precision in AUTOCAST_DTYPES else None,
            prepare=partial(change_layers, args, compiled=False),
        )
        change_layers(args, self.model.backbone)

    def collator(self, lm_loss_on: str | None = None) -> PreferenceCollator:
        pad, multiple = self.processing_class.pad_token_id, self.args.pad_to_multiple_of
        options = {"layout": self.batch_layout, "pools_all": self.model.settings.pools_all}
        return PreferenceCollator(pad, self.padding_side, multiple, lm_loss_on=lm_loss_on, **options)

    def prepare_data(self, dataset: Any, name: str) -> Any:
        """Tokenizes a dataset, see [`Preparation`]."""
        return self.preparation.prepare(dataset, name)

    def get_train_dataloader(self) -> DataLoader:
        """One batch is this process's share of one optimizer step: a list of micro-batches."""
        collator = self.collator(self.args.lm_loss_on if self.args.lm_loss_coef > 0 else None)
        return self.steps.loader(collator, self.data_collator)

    def create_optimizer(self, *arguments: Any, **options: Any) -> Any:
        """As in transformers; the head has its own rate if there is a `head_learning_rate`."""
        is_new, rate = self.optimizer is None, self.args.head_learning_rate
        optimizer = super().create_optimizer(*arguments, **options)
        if is_new and rate is not None:
            give_head_its_rate(optimizer, self.accelerator.unwrap_model(self.model), rate)
        return optimizer

    def get_total_train_batch_size(self, args: RewardModelConfig) -> int:
        """Pairs of one optimizer step, over all processes."""
        return self.pairs_per_step

    # ---- the step ----

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

        def forget() -> None:
            model.zero_grad()
            self.meter.begin_again()

        if self.retry.averages_gradients:  # without DDP, whose forward pass may wait for another process
            model = self.accelerator.unwrap_model(model)
        total = self.retry.step(inputs, self.state.global_step, partial(self._compute_step, model), forget)
        if self.retry.averages_gradients:
            self.retry.average_gradients(model)
        self.meter.end_step()
        every = self.args.torch_empty_cache_steps
        if every and self.state.global_step % every == 0:
            clear_device_cache()
        self.step_loss = total
        return total

    def _compute_step(self, model: torch.nn.Module, inputs: list[MicroBatch]) -> torch.Tensor:
        """Accumulates the gradients of the micro-batches; an engine averages them over processes at the last one."""
        deepspeed = self.accelerator.distributed_type == DistributedType.DEEPSPEED
        total = torch.zeros((), device=self.args.device)
        with self.weights_cast_once():
            passes = TwoPasses(inputs, model, self.accelerator, self.compute_loss_context_manager, self._counted_loss)
            for number, batch in enumerate(passes.batches):
                last = number == len(inputs) - 1
                self.sync_gradients_after(last)
                sync = contextlib.nullcontext() if last or deepspeed else self.accelerator.no_sync(model)
                with sync, self.maybe_activation_offload_context:
                    with self.compute_loss_context_manager(), passes.draws_again(number):
                        loss = self.compute_loss(model, batch.to(self.args.device))
                    if last and deepspeed:  # its backward pass ends with the optimizer's step
                        self.check_step(total + loss.detach())
                    self.accelerator.backward(loss, **({"scale_wrt_gas": False} if deepspeed else {}))
                total += loss.detach()
        return total

    def compute_loss(
        self, model: torch.nn.Module, inputs: MicroBatch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """
        The share of one micro-batch in the step's loss; weights are already divided by the counts of the whole step.

        Engines average gradients over processes; the factor `num_processes` turns that average into the correct sum.
        """
        rewards, lm_losses = model(inputs)
        loss = self._counted_loss(inputs, rewards, lm_losses, count=model.training) * self.accelerator.num_processes
        return (loss, {"rewards": rewards}) if return_outputs else loss

    def _counted_loss(
        self, inputs: MicroBatch, rewards: torch.Tensor, lm_losses: torch.Tensor, *, count: bool = True
    ) -> torch.Tensor:
        loss, parts = micro_batch_loss(inputs, rewards, lm_losses, **coefficients(self.args))
        if count:
            self.meter.add(inputs, rewards.detach(), *(part.detach() for part in parts))
        return loss

    def check_step(self, loss: torch.Tensor, grad_norm: torch.Tensor | float | None = None) -> None:
        """
        Ends the run on all processes if a loss or gradient is not finite, and checks for signals. See [`Meter.check`].
        """
        bad, self.stop.signal = self.meter.check(loss, grad_norm, self.stop.received)
        if bad:
            raise self._not_finite(bad, loss.item() if bad == "loss" else float(grad_norm))

    def check_gradient(self, norm: Any) -> None:
        """Called with the norm of every step's gradient before it is applied (with DeepSpeed, after it)."""
        self.grad_norm = norm
        if self.accelerator.distributed_type != DistributedType.DEEPSPEED:
            self.check_step(self.step_loss, norm)
        elif norm is not None and not math.isfinite(norm) and not self.args.fp16:
            raise self._not_finite("gradient norm", norm)

    def _not_finite(self, what: str, value: float) -> InputError:
        describe = partial(self.data.describe_row, self.processing_class)
        where = {"step": self.state.global_step + 1, "output_dir": self.args.output_dir, "describe": describe}
        return not_finite(what, value, self.meter.parts, **where)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the metrics since the last log."""
        if "loss" in logs:
            logs.update(self.meter.take())
        super().log(logs, start_time)
