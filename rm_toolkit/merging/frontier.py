"""General and customized accuracy of the models between two reward models, and the best one within an allowed loss."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ..batches.collator import PreferenceCollator
from ..batches.tokenization import TokenizedPreferences, tokenize_preferences
from ..data.mixture import load_datasets
from ..errors import InputError
from ..evaluation.metrics import PreferenceMetrics, preference_metrics
from ..evaluation.pair_rewards import PairRewards
from ..models.device import compute_device
from ..models.reward_model import RewardModel
from ..models.settings import RewardModelSettings
from ..models.shared_prompts.choice import share_if_exact
from ..models.tokenizer import load_tokenizer
from ..output.progress import no_bar
from ..scoring.chat_date import dated_for_scoring
from ..scoring.rewards import check_finite, compute_rewards
from .interpolation import interpolate
from .merge import open_models


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


@dataclass
class Point:
    """
    One interpolated model.

    Args:
        weight (`float`): Weight of the customized model.
        general (`float`): Mean accuracy over the general sets.
        customized (`float`): Mean accuracy over the customized sets.
        sets (`dict[str, PreferenceMetrics]`): Metrics of each set.
        pairs (`dict[str, PairRewards]`): Rewards behind them.
    """

    weight: float
    general: float
    customized: float
    sets: dict[str, PreferenceMetrics] = field(default_factory=dict)
    pairs: dict[str, PairRewards] = field(default_factory=dict)


@dataclass
class Frontier:
    """
    The series, and the chosen model.

    Args:
        points (`list[Point]`): By weight, from 0 to 1.
        chosen (`Point`): The highest customized accuracy among those whose general accuracy is at most `allowed_loss`
            below that of weight 0; among ties the smallest weight.
        allowed_loss (`float`): As a share: 0.01 is one point.
        general_sets, customized_sets (`list[str]`): Names of the test sets.
    """

    points: list[Point]
    chosen: Point
    allowed_loss: float
    general_sets: list[str]
    customized_sets: list[str]

    @property
    def limit(self) -> float:
        """The lowest general accuracy allowed."""
        return self.points[0].general - self.allowed_loss


def check_weights(weights: Sequence[float]) -> list[float]:
    """Returns the weights in order, each once, with 0 and 1; raises an `InputError` for one outside [0, 1]."""
    for weight in weights:
        if not 0 <= weight <= 1:
            raise InputError(f"--weights has {weight:g}; weights must be from 0 (general) to 1 (customized).")
    return sorted({0.0, 1.0, *map(float, weights)})


def compute_frontier(
    general: str | os.PathLike,
    customized: str | os.PathLike,
    general_datasets: Mapping[str, Any],
    customized_datasets: Mapping[str, Any],
    weights: Sequence[float],
    *,
    allowed_loss: float = 0.01,
    **how: Any,
) -> Frontier:
    """
    Evaluates a series of merges from one end to the other, and chooses one; nothing is written.

    Args:
        general, customized, general_datasets, customized_datasets: As in [`evaluate_between`].
        weights (`Sequence[float]`): Weights of the customized model; 0 and 1 are always evaluated.
        allowed_loss (`float`): General accuracy that may be lost, as a share.
        how: The other arguments of [`evaluate_between`].

    Raises:
        `InputError`: as [`evaluate_between`] does, and for a weight outside [0, 1].
    """
    weights = check_weights(weights)
    points = evaluate_between(general, customized, general_datasets, customized_datasets, weights, **how)
    chosen = choose(points, allowed_loss)
    return Frontier(points, chosen, allowed_loss, list(general_datasets), list(customized_datasets))


def evaluate_between(
    general: str | os.PathLike,
    customized: str | os.PathLike,
    general_datasets: Mapping[str, Any],
    customized_datasets: Mapping[str, Any],
    weights: Sequence[float],
    *,
    split: str = "test",
    seed: int = 0,
    device: str | None = None,
    tokens_per_batch: int = 16384,
    bf16: bool = False,
    cache_dir: str | None = None,
    show_progress: bool = True,
) -> list[Point]:
    """
    Evaluates merges in memory; nothing is written. Three copies of the model weights are held in fp32.

    Args:
        general, customized (`str` or `os.PathLike`): Folders of the two reward models.
        general_datasets, customized_datasets (`dict`): Name -> SPEC as in a recipe.
        weights (`Sequence[float]`): Weights of the customized model, each in [0, 1].
        split (`str`): Split to use if a SPEC names none.
        seed (`int`): Seed of fractions and splits.
        device (`str`, *optional*): Default: a GPU if there is one.
        tokens_per_batch (`int`): Padded tokens computed at once.
        bf16 (`bool`): Whether to compute rewards in bf16 autocast, as the evaluation of a run with `bf16` does.
        cache_dir (`str`, *optional*): Cache for raw files.
        show_progress (`bool`): Whether to draw a progress bar.

    Returns:
        `list[Point]`: One for each weight, in their order.

    Raises:
        `InputError`: if the models do not fit each other, or a test set cannot be read or has no preference.
    """
    target = compute_device(device)
    shared = sorted(set(general_datasets) & set(customized_datasets))
    if shared:
        raise InputError(f"the test set '{shared[0]}' is given as general and as customized; give each its own name.")
    _, (saved,) = open_models(general, [customized])
    tokenizer, _ = dated_for_scoring(load_tokenizer(str(customized)), saved.settings, (), None)
    specs = {**general_datasets, **customized_datasets}
    data = load_datasets(specs, split, seed=seed, cache_dir=cache_dir, format=saved.settings.data_format)
    sets = _tokenize(data, tokenizer, saved.settings, show_progress)
    model = _Between(str(general), str(customized), target, bf16)
    collator = PreferenceCollator(
        tokenizer.pad_token_id or 0, layout=model.layout, pools_all=model.model.settings.pools_all
    )
    points = []
    for weight in tqdm(weights, desc="Weights", disable=no_bar(show_progress)):
        model.set_weight(weight)
        rewards = {own.name: model.score(own, collator, tokens_per_batch) for own in sets}
        found = {own.name: preference_metrics(rewards[own.name], own) for own in sets}
        pairs = {own.name: PairRewards.of(rewards[own.name], own) for own in sets}
        points.append(Point(weight, _mean(found, general_datasets), _mean(found, customized_datasets), found, pairs))
    return points


def _tokenize(
    data: Mapping[str, Dataset],
    tokenizer: PreTrainedTokenizerBase,
    settings: RewardModelSettings,
    show_progress: bool,
) -> list[TokenizedPreferences]:
    sets = [
        tokenize_preferences(
            dataset,
            tokenizer,
            max_length=settings.max_length,
            data_format=settings.data_format,
            name=name,
            show_progress=show_progress,
            find_completions=False,
        )
        for name, dataset in data.items()
    ]
    for own in sets:
        if not len(own):
            raise InputError(f"the test set '{own.name}' has no pair with a preference.")
    return sets


def _mean(found: Mapping[str, PreferenceMetrics], names: Iterable[str]) -> float:
    accuracies = [found[name].accuracy for name in names]
    return sum(accuracies) / len(accuracies)


def choose(points: Sequence[Point], allowed_loss: float) -> Point:
    """
    Returns the point with the highest customized accuracy that loses no more general accuracy than allowed.

    Args:
        points (`Sequence[Point]`): By weight; the first is the general model, which always qualifies.
        allowed_loss (`float`): As a share.
    """
    # Accuracies are ratios of counts: a loss of exactly the allowed size must not fail by the last bit.
    allowed = [point for point in points if points[0].general - point.general <= allowed_loss + 1e-9]
    return max(allowed, key=lambda point: (point.customized, -point.weight))


class _Between:
    """A reward model whose parameters are set for each weight."""

    def __init__(self, general: str, customized: str, device: torch.device, bf16: bool):
        self.device, self.folders, self.source = device, (general, customized), general
        self.autocast = torch.autocast(device.type, torch.bfloat16, enabled=bf16)
        self.model = RewardModel.from_pretrained(customized, require_head=True).to(device).eval()
        other = RewardModel.from_pretrained(general, self.model.settings, require_head=True).to(device)
        self.general = other.base_classifier.state_dict()
        self.current = self.model.base_classifier.state_dict()
        self.customized = {name: tensor.clone() for name, tensor in self.current.items()}
        exact = share_if_exact(self.model, device, torch.bfloat16 if bf16 else None)
        self.layout = "shared" if exact else "plain"

    @torch.no_grad()
    def set_weight(self, weight: float) -> None:
        self.source = self.folders[weight > 0]
        for name, tensor in self.current.items():
            tensor.copy_(interpolate(self.general[name], [self.customized[name]], [weight]))

    def score(self, data: TokenizedPreferences, collator: PreferenceCollator, tokens_per_batch: int) -> np.ndarray:
        with self.autocast:
            rewards = compute_rewards(
                self.model,
                data,
                collator,
                tokens_per_batch=tokens_per_batch,
                device=self.device,
                show_progress=False,
            )
        check_finite(rewards, self.model, self.source)
        return rewards
