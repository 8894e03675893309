"""Fits a calibration from reward differences to probabilities, and measures it on pairs that it was not fitted to."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from ..data.specs import DatasetSpec
from ..errors import InputError
from ..models.files import CALIBRATION_NAME
from ..models.settings import RewardModelSettings
from ..scoring.calibration_file import METHODS, Calibration, model_fingerprint
from ..scoring.reading import chat_tokenizers
from ..scoring.scorer import RewardScorer
from .calibration import brier_score, reliability
from .held_out import check_held_out
from .metrics import accuracy, count_ties, mean_loss
from .parts import deal_prompts
from .sets import TestSets
from .temperature import LEAST_PAIRS, check_margins, fit_temperature


LEAST_PROMPTS = 20
LEAST_FOR_A_LINE = 1000  # an isotonic line has as many steps as the data suggest, and overfits a small set
NUM_PARTS = 5


@dataclass
class FittedCalibration:
    """
    A calibration, and its effect on pairs that it was not fitted to.

    Args:
        calibration (`Calibration`): Fitted to all pairs.
        before, after (`dict[str, float]`): `ece`, `brier` and `log_loss` of all pairs: of the rewards unchanged; and with
            each part of the prompts calibrated by a fit to the other parts.
        notes (`list[str]`): What a reader should know about the fit.
    """

    calibration: Calibration
    before: dict[str, float]
    after: dict[str, float]
    notes: list[str]


def calibrate(
    model: str | os.PathLike,
    datasets: Mapping[str, Any],
    *,
    method: str = "temperature",
    split: str = "test",
    seed: int = 0,
    cache_dir: str | None = None,
    show_progress: bool = True,
    **options: Any,
) -> FittedCalibration:
    """
    Fits the calibration of a model to held-out pairs. Nothing is written: see [`~Calibration.save`].

    Args:
        model (`str` or `os.PathLike`): Folder of a reward model or an adapter.
        datasets (`dict`): Name -> SPEC as in a recipe: pairs that the model was not trained on.
        method (`str`): `temperature` or `isotonic`.
        split (`str`): Split to use if a SPEC does not name one.
        seed (`int`): Seed of fractions and splits of the data, and of the parts.
        cache_dir (`str`, *optional*): Cache for raw files.
        show_progress (`bool`): Whether to draw a progress bar.
        **options: As in [`RewardScorer`].

    Raises:
        `InputError`: if the model was trained on one of the sets, a set has too few pairs or prompts, or no calibration
            fits.
    """
    if method not in METHODS:
        raise InputError(f"`method` is '{method}'. It must be one of {', '.join(METHODS)}.")
    scorer = RewardScorer(model, **options)
    check_held_out("the model", scorer.settings, datasets, seed)
    check_not_trained_on(scorer.settings, datasets, split)
    trust = {"trust_remote_code": options.get("trust_remote_code", False)}
    tests = TestSets(datasets, split, seed, cache_dir, partial(chat_tokenizers, {"model": model}, **trust))
    margins, prompts, sets = [], [], {}
    for name, table in tests.load(scorer.settings.data_format).items():
        rewards = np.array(
            scorer.score(table.prompts, table.completions, **table.columns, show_progress=show_progress)
        )
        margins.append(rewards[table.better] - rewards[table.worse])
        prompts += [table.prompt_ids[number] for number in table.prompt]
        described = tests.describe(name, table)
        sets[name] = {
            key: described[key] for key in ("fingerprint", "num_pairs", "num_prompts")
        }  # no paths: it is published
    fitted = fit_calibration(np.concatenate(margins), prompts, method, model_fingerprint(model), seed=seed)
    fitted.calibration.record["fitted_on"] = sets
    return fitted


def fit_calibration(
    margins: np.ndarray, prompts: Sequence[str], method: str, model: str, *, seed: int = 0
) -> FittedCalibration:
    """
    Fits a calibration to all pairs, and measures it by cross-validation: each part of the prompts by a fit to the others.

    Args:
        margins (`np.ndarray` of shape `(num_pairs,)`): Reward of the chosen minus that of the rejected response.
        prompts (`Sequence[str]` of `num_pairs`): A key per pair; pairs of one prompt have the same.
        method (`str`): `temperature` or `isotonic`.
        model (`str`): Fingerprint of the model.
        seed (`int`): Seed of the parts.

    Raises:
        `InputError`: as in [`calibrate`].
    """
    margins = np.asarray(margins, dtype=np.float64)
    least = LEAST_PAIRS if method == "temperature" else LEAST_FOR_A_LINE
    name = "the set"
    check_margins(margins, name, least)
    if len(set(prompts)) < LEAST_PROMPTS:
        raise InputError(f"{name} has {len(set(prompts))} prompts; a calibration needs at least {LEAST_PROMPTS}.")
    fit: Callable[..., Calibration] = _temperature if method == "temperature" else _isotonic
    found = fit(margins, model, name)
    part = deal_prompts(prompts, NUM_PARTS, seed)
    calibrated = np.zeros(len(margins))
    for number in range(NUM_PARTS):
        inside = part == number
        calibrated[inside] = fit(margins[~inside], model, f"{name} without one of {NUM_PARTS} parts").logits(
            margins[inside]
        )
    before, after = _errors(margins), _errors(calibrated)
    found.record.update(
        num_pairs=len(margins), num_prompts=len(set(prompts)), num_ties=count_ties(margins), accuracy=accuracy(margins),
        not_fitted_on={"parts": NUM_PARTS, "before": before, "after": after},
    )  # fmt: skip
    return FittedCalibration(found, before, after, _notes(margins, found, before, after))


def check_not_trained_on(settings: RewardModelSettings, specs: Mapping[str, Any], split: str) -> None:
    """
    Refuses a set that a stage of the model was trained on: the model is overconfident there.

    Args:
        settings (`RewardModelSettings`): Its lineage says what it was trained on.
        specs (`dict`): Name -> SPEC.
        split (`str`): Split to use if a SPEC does not name one.

    Raises:
        `InputError`: naming the set.
    """
    for stage in settings.stages():
        for trained in {**stage.get("datasets", {}), **stage.get("replay_datasets", {})}.values():
            if trained.get("spec") is None:
                continue
            own = DatasetSpec.parse(trained["spec"], "trained")
            for name, given in specs.items():
                spec = DatasetSpec.parse(given, name)
                same = _place(spec) == _place(own)
                if Path(spec.path).is_dir() and spec.domain and own.domain:  # there it chooses files, else it is a tag
                    same &= spec.domain == own.domain
                whole = Path(spec.path).is_file() and not spec.test_size
                if same and (whole or (spec.split or split) == (own.split or "train")):
                    raise InputError(
                        f"the model was trained on '{name}' ({spec.path}), so it is overconfident there. "
                        "Give held-out pairs."
                    )


def _place(spec: DatasetSpec) -> str:
    return str(Path(spec.path).resolve()) if Path(spec.path).exists() else spec.path


def _temperature(margins: np.ndarray, model: str, name: str) -> Calibration:
    temperature = fit_temperature(margins, name, least_pairs=2)  # the pairs of the whole set were counted before
    scaled = margins / temperature
    # Of the log-likelihood in 1 / T: its curvature is the Fisher information.
    information = (margins**2 * expit(scaled) * expit(-scaled)).sum()
    error = temperature**2 / np.sqrt(information)
    return Calibration("temperature", model, temperature, record={"temperature_standard_error": float(error)})


def _isotonic(margins: np.ndarray, model: str, name: str) -> Calibration:
    """Isotonic regression over each pair in both orders, clipped to the confidence that so few pairs can support."""
    from sklearn.isotonic import IsotonicRegression

    margins = check_margins(margins, name, 2)
    fit = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip")
    fit.fit(np.concatenate([margins, -margins]), np.repeat([1.0, 0.0], len(margins)))
    positive = fit.X_thresholds_ > 0
    places, first = np.unique(fit.X_thresholds_[positive], return_index=True)
    heights = np.clip(fit.y_thresholds_[positive][first], 0.5, 1 - 1 / (len(margins) + 2))
    heights = np.maximum.accumulate(heights)
    return Calibration("isotonic", model, None, (0.0, *places.tolist()), (0.5, *heights.tolist()))


def _errors(margins: np.ndarray) -> dict[str, float]:
    return {"ece": reliability(margins).error, "brier": brier_score(margins), "log_loss": mean_loss(margins)}


def _notes(margins: np.ndarray, found: Calibration, before: dict[str, float], after: dict[str, float]) -> list[str]:
    notes = []
    if (ties := count_ties(margins)) > len(margins) / 20:
        notes.append(
            f"{ties:,} of {len(margins):,} pairs have equal rewards (ties); their p is 0.5 under any calibration."
        )
    error = found.record.get("temperature_standard_error")
    if error is not None and error > 0.2 * found.temperature:
        notes.append(f"the temperature {found.temperature:.3g} has a standard error of {error:.2g}: use more pairs.")
    if after["log_loss"] >= before["log_loss"]:
        notes.append("the log loss on held-out parts is no better than before: there was nothing to correct.")
    return notes


def check_calibration_file(model: str, overwrite: bool) -> Path:
    """
    Returns the folder that a calibration will be written into.

    Args:
        model (`str`): The folder as given by the user.
        overwrite (`bool`): Whether an earlier calibration is replaced.

    Raises:
        `InputError`: if it is not a local folder, or has a calibration already.
    """
    folder = Path(model)
    if not folder.is_dir():
        raise InputError(
            f"'{model}' is not a local folder. A calibration is stored in the model's folder: download the model first."
        )
    if (folder / CALIBRATION_NAME).exists() and not overwrite:
        raise InputError(f"{folder / CALIBRATION_NAME} exists already. Pass --overwrite to replace it.")
    return folder
