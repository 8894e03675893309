"""Temperature scaling: one number T that calibrates sigmoid(reward difference / T)."""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

from ..errors import InputError


LEAST_PAIRS = 100


def fit_temperature(margins: np.ndarray, name: str, least_pairs: int = LEAST_PAIRS) -> float:
    """
    Returns the temperature with the least mean of -log sigmoid(margin / T): a convex problem in 1 / T, solved exactly.

    Args:
        margins (`np.ndarray` of shape `(num_pairs,)`): Reward of the chosen minus that of the rejected response, in
            logits, on pairs that the model was not trained on.
        name (`str`): Name of the set, for the error.
        least_pairs (`int`): Fewer pairs are refused.

    Raises:
        `InputError`: if there are too few pairs, or no temperature is best: every pair is ranked correctly (the lower, the
            better), or the model ranks no better than chance (the higher, the better).

    References:
        - Temperature scaling: https://huggingface.co/papers/1706.04599, section 4.2
    """
    margins = check_margins(margins, name, least_pairs)

    def slope(inverse: float) -> float:  # derivative of the mean loss with respect to 1 / T
        return float(-(margins * expit(-inverse * margins)).mean())

    scale = 1.0 / float(np.abs(margins).max())
    high = scale
    while slope(high) < 0:
        high *= 2.0
    return float(1.0 / brentq(slope, 0.0, high, xtol=scale * 1e-12, rtol=1e-12))


def check_margins(margins: np.ndarray, name: str, least_pairs: int) -> np.ndarray:
    """
    Checks that a calibration can be fitted to the margins, and returns them in fp64.

    Args:
        margins, name, least_pairs: As in [`fit_temperature`].

    Raises:
        `InputError`: as in [`fit_temperature`].
    """
    margins = np.asarray(margins, dtype=np.float64)
    if len(margins) < least_pairs:
        raise InputError(f"{name} has {len(margins):,} pairs; a calibration needs at least {least_pairs:,}.")
    if not margins.any():
        raise InputError(f"{name}: both rewards of every pair are equal (ties); there is nothing to calibrate.")
    if margins.mean() <= 0:
        raise InputError(
            f"{name}: the model ranks these {len(margins):,} pairs no better than chance (mean margin "
            f"{margins.mean():.3f}), so no temperature fits. Use pairs like those it was trained for."
        )
    if not (margins < 0).any():
        raise InputError(
            f"{name}: the model ranks all of the {len(margins):,} pairs correctly, so the best temperature is 0. "
            "Use more pairs or harder ones, and none that it was trained on."
        )
    return margins
