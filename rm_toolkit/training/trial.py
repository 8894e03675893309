"""Tries one step of a given size with the run's own model before the first real step, and predicts its bytes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from accelerate import Accelerator
from torch._subclasses import FakeTensorMode

from ..batches.micro_batch import MicroBatch
from ..models.out_of_memory import free_memory, is_out_of_memory
from ..models.precision import AUTOCAST_DTYPES, compute_dtype
from ..models.reward_model import RewardModel
from .config import RewardModelConfig
from .engines import Engine, read_engine
from .plan.skeleton import build_skeleton, materialize
from .plan.step import largest_batch, simulate
from .retry import RandomState
from .token_search import DeviceMemory, Found, search_tokens
from .weight_bytes import optimizer_bytes, weight_bytes


class Trial:
    """
    Tries steps whose texts all have the greatest length and share nothing: no step of as many tokens needs more
    memory.

    Args:
        model (`RewardModel`): Model of the run, before an engine wraps it; restored afterwards.
        args (`RewardModelConfig`): Settings of the run.
        engine (`Engine`): Engine of the run.
        layout (`str`): Layout of its micro-batches in memory.
        text_length (`int`): Tokens of the longest text.
    """

    def __init__(self, model: RewardModel, args: RewardModelConfig, engine: Engine, layout: str, text_length: int):
        self.model, self.args, self.engine, self.layout = model, args, engine, layout
        self.text_length = text_length
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def batch(self, tokens: int) -> MicroBatch:
        """A micro-batch of this many tokens."""
        return largest_batch(
            pairs=1,
            text_length=self.text_length,
            layout=self.layout,
            vocab_size=self.model.base_classifier.get_input_embeddings().weight.shape[0],
            lm_loss_on=self.args.lm_loss_on if self.args.lm_loss_coef > 0 else None,
            tokens=tokens,
            pools_all=self.model.settings.pools_all,
        )

    def reserved(self) -> int:
        """Bytes in use in later steps but not in the first: the optimizer's states and DDP's buckets."""
        weights = sum(parameter.numel() for parameter in self.trained)
        buckets = sum(parameter.nbytes for parameter in self.trained) if self.engine.num_processes > 1 else 0
        return weights * optimizer_bytes(str(getattr(self.args.optim, "value", self.args.optim))) + buckets

    def run(self, tokens: int, memory: DeviceMemory, compute: Callable[[MicroBatch], Any]) -> int | None:
        """
        Computes one micro-batch as the last of a step: with gradients and space for the optimizer's state.

        Args:
            tokens (`int`): Tokens of the micro-batch.
            memory (`DeviceMemory`): Measures the bytes.
            compute (`Callable`): Forward and backward pass, as the run computes them.

        Returns:
            `int` or `None`: Peak bytes; `None` if memory ran out.
        """
        with self._left_as_it_is():
            try:
                return self._peak(tokens, memory, compute)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            return None

    def _peak(self, tokens: int, memory: DeviceMemory, compute: Callable[[MicroBatch], Any]) -> int:
        memory.begin()
        room = torch.empty(self.reserved(), dtype=torch.uint8, device=self.args.device)
        for parameter in self.trained:
            parameter.grad = torch.zeros_like(parameter)
        compute(self.batch(tokens).to(self.args.device))
        del room
        return memory.peak()

    @contextlib.contextmanager
    def _left_as_it_is(self) -> Iterator[None]:
        state, training = RandomState(self.args.device), self.model.training
        self.model.train()
        try:
            yield
        finally:
            self.model.train(training)
            for parameter in self.trained:
                parameter.grad = None
            free_memory()
            state.restore()

    def prediction(self) -> Callable[[int], float] | None:
        """
        The plan's prediction of a step's bytes without weights, gradients and the optimizer's state: a straight line
        through two sizes. `None` for a quantized base, whose activations the plan does not know.
        """
        if getattr(self.model.base_classifier.config, "quantization_config", None) is not None:
            return None
        unit = 2 * self.text_length
        one, three = (self._simulated(units * unit) for units in (1, 3))
        standing = sum(parameter.nbytes for parameter in {id(p): p for p in self.model.parameters()}.values())
        standing += self.reserved() + sum(parameter.nbytes for parameter in self.trained)
        slope = (three - one) / (2 * unit)
        return lambda tokens: standing + one + slope * (tokens - unit)

    def _simulated(self, tokens: int) -> int:
        skeleton, mode = self._skeleton(), FakeTensorMode()
        materialize(skeleton, mode)
        autocast = compute_dtype(self.engine.precision) if self.engine.precision in AUTOCAST_DTYPES else None
        held = weight_bytes(self.engine)
        return simulate(
            skeleton,
            self.batch(tokens),
            mode,
            autocast=autocast,
            casts_kept=held.casts_kept,
            cast_once=held.cast_once,
            gpu=self.engine.device != "cpu",
            accumulated=True,
        ).peak

    def _skeleton(self) -> RewardModel:
        adapter = next(iter(self.model.classifier.peft_config.values())) if self.model.is_peft else None
        skeleton = build_skeleton(self.model.base_classifier.config, self.args, peft_config=adapter)
        if self.layout == "shared":
            skeleton.enable_shared_layout()
        return skeleton


def find_tokens(
    model: RewardModel,
    args: RewardModelConfig,
    accelerator: Accelerator,
    layout: str,
    text_length: int,
    compute: Callable[[MicroBatch], Any],
    memory: DeviceMemory,
) -> Found:
    """
    Finds the tokens of the largest micro-batch that fits on this process, see [`search_tokens`].

    Args:
        model, args, layout, text_length: As in [`Trial`].
        accelerator (`Accelerator`): Of the run.
        compute (`Callable`): Forward and backward pass of a micro-batch.
        memory (`DeviceMemory`): Measures the bytes.
    """
    trial = Trial(model, args, read_engine(accelerator), layout, text_length)
    try:
        predict = trial.prediction()
    except Exception:  # a model's own code may need tensor values: then only trials are used
        predict = None
    return search_tokens(
        unit=2 * text_length,
        most=-(-args.pairs_per_step // accelerator.num_processes),
        budget=memory.budget(),
        try_step=lambda tokens: trial.run(tokens, memory, compute),
        predict=predict,
    )


def longest_text(data: Any, max_length: int) -> int:
    """Tokens of the longest text of a dataset; `max_length` for a stream, which has not been read."""
    lengths = getattr(data, "lengths", None)
    return max_length if lengths is None or not len(lengths) else int(lengths.max())
