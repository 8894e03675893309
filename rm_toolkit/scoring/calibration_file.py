"""`calibration.json` of a model folder: turns the difference of two rewards into a calibrated probability."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit, logit

from .. import __version__
from ..errors import InputError
from ..models.adapter_files import base_of_adapter
from ..models.files import (
    ADAPTER_WEIGHTS,
    CALIBRATION_NAME,
    CONFIG_NAME,
    SETTINGS_NAME,
    weight_files,
)
from ..models.hub_files import find_file, split_revision
from ..output.folders import replace_text
from ..output.json_files import load_json


METHODS = ("temperature", "isotonic")
REMEDY = "Fit it again with `rm-toolkit calibrate`."
# Other files that decide how a model reads a text.
READ_BY = ("tokenizer.json", "tokenizer.model", "chat_template.jinja")
# Keys of `rm_toolkit.json` that decide how texts are read. Its record of the run may grow without changing a reward.
READING = ("pooling_type", "data_format", "max_length", "pools_eos", "chat_date", "quantization")
# Keys of `config.json` that a push or another version changes, and that do not affect rewards.
NOT_OF_THE_MODEL = ("transformers_version", "architectures", "dtype", "torch_dtype", "auto_map")


@dataclass(frozen=True)
class Calibration:
    """
    A calibration fitted to a model.

    Args:
        method (`str`): `temperature`: p = sigmoid(margin / temperature); or `isotonic`: p is a piecewise linear function
            of the margin through the points below, symmetric in the order of the two responses.
        model (`str`): From [`model_fingerprint`], of the model that it was fitted to.
        temperature (`float`, *optional*): Above 0.
        margins (`tuple[float, …]`): Isotonic: margins of the points, from 0 on, increasing, in logits.
        probabilities (`tuple[float, …]`): Isotonic: probabilities of the points, from 0.5 on, never decreasing, below 1.
        record (`dict`): The data that it was fitted on, and its effect there.
    """

    method: str
    model: str
    temperature: float | None = None
    margins: tuple[float, ...] = ()
    probabilities: tuple[float, ...] = ()
    record: dict[str, Any] = field(default_factory=dict)

    def probability(self, margins: Any) -> np.ndarray:
        """
        Probability that the first of two responses beats the second.

        Args:
            margins (`np.ndarray` of shape `(num_pairs,)`): Reward of the first minus that of the second, in logits.

        Returns:
            `np.ndarray` of shape `(num_pairs,)`, fp64: For the other order it is 1 minus that.
        """
        margins = np.asarray(margins, dtype=np.float64)
        if self.method == "temperature":
            return expit(margins / self.temperature)
        p = np.interp(np.abs(margins), self.margins, self.probabilities)
        return np.where(margins < 0, 1.0 - p, p)

    def logits(self, margins: Any) -> np.ndarray:
        """
        Log-odds of [`probability`]: the calibrated margins from which calibration errors and losses are computed.

        Args:
            margins (`np.ndarray` of shape `(num_pairs,)`): As in [`probability`].
        """
        if self.method == "temperature":
            return np.asarray(margins, dtype=np.float64) / self.temperature
        return logit(self.probability(margins))

    def digest(self) -> str:
        """Returns 16 hex digits over the fitted function."""
        fitted = json.dumps([self.method, self.temperature, self.margins, self.probabilities])
        return hashlib.sha256(fitted.encode()).hexdigest()[:16]

    def save(self, folder: str | os.PathLike) -> None:
        """Writes `calibration.json` into a model folder."""
        fitted = {"temperature": self.temperature}
        if self.method == "isotonic":
            fitted = {"margins": list(self.margins), "probabilities": list(self.probabilities)}
        values = {"rm_toolkit": __version__, "method": self.method, **fitted, "model": self.model, **self.record}
        text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False)
        replace_text(Path(folder, CALIBRATION_NAME), text + "\n")


def win_probabilities(margins: np.ndarray, calibration: Calibration | None) -> np.ndarray:
    """
    Probability that the first of two responses beats the second.

    Args:
        margins (`np.ndarray` of any shape): Reward of the first minus that of the second, in logits.
        calibration (`Calibration`, *optional*): Without one, sigmoid(margin), as in training.
    """
    return expit(margins) if calibration is None else calibration.probability(margins)


def mean_win_probabilities(rewards: Sequence[float], calibration: Calibration) -> list[float]:
    """
    Probability that each of several responses beats another one, averaged over the others.

    Args:
        rewards (`Sequence[float]` of K): Rewards of the responses to one prompt, in logits; K is at least 2.
        calibration (`Calibration`): The calibration of their model.

    Returns:
        `list[float]` of K: Their mean is 0.5; for two responses they are p and 1 - p.
    """
    values = np.asarray(rewards, dtype=np.float64)
    wins = calibration.probability(values[:, None] - values[None, :])
    return ((wins.sum(axis=1) - 0.5) / (len(values) - 1)).tolist()  # without the comparison with itself


def check_calibrated_options(model: Any, *, adapters: Any, endpoint: Any) -> None:
    """
    Refuses arguments for which a calibration was not fitted.

    Raises:
        `InputError`: naming it.
    """
    if endpoint is not None:
        raise InputError(
            "`calibrated` is given with `endpoint`, but it cannot be checked from here that the server has the "
            "weights that the "
            "calibration was fitted to; load the model."
        )
    if adapters:
        raise InputError(
            "`calibrated` cannot be used with `adapters`: each needs its own calibration. Load one model."
        )
    if not isinstance(model, (str, os.PathLike)):
        raise InputError("`calibrated` cannot be used with a loaded model. Give its folder or Hub id.")


def read_calibration(model: str | os.PathLike, revision: str | None = None) -> Calibration:
    """
    Reads the calibration of a model, and checks that it was fitted to exactly this model.

    Args:
        model (`str` or `os.PathLike`): Folder or Hub id, also `ID@REVISION`.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.

    Raises:
        `InputError`: if there is none, it is damaged, or the model has changed since.
    """
    place = split_revision(model, revision)
    path = find_file(place[0], CALIBRATION_NAME, place[1])
    if path is None:
        raise InputError(
            f"'{model}' has no `{CALIBRATION_NAME}`, so its rewards cannot be calibrated. Fit it with "
            "`rm-toolkit calibrate`."
        )
    try:
        found = _parse(load_json(path))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} cannot be read ({error}). {REMEDY}") from error
    if found.model != model_fingerprint(*place):
        raise InputError(
            f"{path} was fitted to another model: weights or settings of '{model}' have changed since. {REMEDY}"
        )
    return found


def _parse(values: dict[str, Any]) -> Calibration:
    method = values["method"]
    if method not in METHODS:
        raise ValueError(f"`method` is {method!r}")
    known = {"method", "model", "temperature", "margins", "probabilities", "rm_toolkit"}
    record = {name: value for name, value in values.items() if name not in known}
    if method == "temperature":
        temperature = values["temperature"]
        if isinstance(temperature, bool) or not isinstance(temperature, int | float):
            raise ValueError("`temperature` is not a number")
        if not (math.isfinite(temperature) and temperature > 0):
            raise ValueError(f"`temperature` is {temperature}")
        return Calibration(method, str(values["model"]), float(temperature), record=record)
    points = [tuple(map(float, values[name])) for name in ("margins", "probabilities")]
    margins, heights = map(np.array, points)
    grows = len(margins) == len(heights) > 0 and np.isfinite(margins).all() and (np.diff(margins) > 0).all()
    if not grows or (np.diff(heights) < 0).any() or margins[0] != 0 or heights[0] < 0.5 or not heights[-1] < 1:
        raise ValueError("`margins` and `probabilities` are not an increasing line from 0 on")
    return Calibration(method, str(values["model"]), None, *points, record=record)


def model_fingerprint(name: str | os.PathLike, revision: str | None = None) -> str:
    """
    Returns 16 hex digits over what decides a model's rewards: its weights, its architecture and how it reads texts;
    for an adapter, those of its base too. Moving, copying or publishing the folder does not change them.

    Args:
        name (`str` or `os.PathLike`): Folder or Hub id.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.
    """
    digest = hashlib.sha256()
    place: tuple[str, str | None] | None = split_revision(name, revision)
    while place is not None:
        config = _own(place, CONFIG_NAME)
        settings = _own(place, SETTINGS_NAME)
        reading = [settings.get(key) or None for key in READING]
        values = {key: value for key, value in config.items() if key[:1] != "_" and key not in NOT_OF_THE_MODEL}
        digest.update(json.dumps([values, reading], sort_keys=True, default=str).encode())
        for path in _weights(place):
            digest.update(_digest(path))
        place = base_of_adapter(*place)
    return digest.hexdigest()[:16]


def _own(place: tuple[str, str | None], file: str) -> dict[str, Any]:
    path = find_file(place[0], file, place[1])
    return load_json(path) if path is not None else {}


def _weights(place: tuple[str, str | None]) -> list[str | Path]:
    """Files that the rewards of a model or an adapter depend on: weights and tokenizer."""
    found = [find_file(place[0], file, place[1]) for file in (*READ_BY, ADAPTER_WEIGHTS)]
    config = find_file(place[0], CONFIG_NAME, place[1])
    return [path for path in found if path is not None] + (weight_files(Path(config).parent) if config else [])


def _digest(path: str | Path) -> bytes:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.digest()
