"""The starting model's rewards of the replayed pairs: computed once and kept in Arrow, so that no second model is needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from datasets import Dataset, load_from_disk
from datasets.fingerprint import Hasher

from ..batches.tokenization import TokenizedPreferences
from ..errors import InputError
from ..models.files import ANCHOR_FOLDER
from ..output.folders import replaced_folder
from ..output.written import record_written


def set_anchor(
    data: TokenizedPreferences,
    general: TokenizedPreferences,
    output_dir: str,
    *,
    compute_rewards: Callable[[TokenizedPreferences], np.ndarray] | None,
    save: bool = True,
) -> None:
    """
    Gives the joined training data the margins of the general pairs, as the model scores them before its first step.

    Args:
        data (`TokenizedPreferences`): The training data; its last pairs are those of `general`.
        general (`TokenizedPreferences`): The pairs to replay.
        output_dir (`str`): Output folder of the run, where the rewards are kept.
        compute_rewards (`Callable`, *optional*): Rewards by the current model; `None` where the run resumes from a
            checkpoint
        and the weights are no longer the general model's.
        save (`bool`): Whether this process writes.
    """
    folder = Path(output_dir, ANCHOR_FOLDER)
    if compute_rewards is None:
        rewards = load_anchor_rewards(folder, general)
    else:
        rewards = compute_rewards(general)
        if save:
            record_written(output_dir, [f"{ANCHOR_FOLDER}/"])
            save_anchor_rewards(folder, general, rewards)
    margin = np.full(len(data), np.nan, dtype=np.float32)
    margin[len(margin) - len(general) :] = rewards[general.better] - rewards[general.worse]
    data.anchor_margin = margin


def save_anchor_rewards(folder: Path, data: TokenizedPreferences, rewards: np.ndarray) -> None:
    """
    Writes the rewards as an Arrow dataset, first to a temporary folder beside it.

    Args:
        folder (`Path`): Replaced if it is there.
        data (`TokenizedPreferences`): The scored data.
        rewards (`np.ndarray` of shape `(num_sequences,)`): In logits.
    """
    rows = Dataset.from_dict({"reward": rewards.astype(np.float32), "num_tokens": data.lengths})
    rows.info.description = _fingerprint(data)
    with replaced_folder(folder) as temporary:
        rows.save_to_disk(temporary)


def load_anchor_rewards(folder: Path, data: TokenizedPreferences) -> np.ndarray:
    """
    Reads what [`save_anchor_rewards`] wrote for the same sequences.

    Raises:
        `InputError`: if it is missing, or was computed for other data.
    """
    try:
        rows = load_from_disk(str(folder))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder} cannot be read ({error}). The anchor was computed by the model before its first step and cannot "
            "be computed again from a checkpoint: start a new run, or resume with --anchor_coef 0."
        ) from error
    if rows.info.description != _fingerprint(data):
        raise InputError(
            f"{folder} has the rewards of other general pairs than `replay_datasets` gives now. Resume with the data "
            "(and `max_length`) of the run's start, or start a new run."
        )
    return np.array(rows["reward"], dtype=np.float32)


def _fingerprint(data: TokenizedPreferences) -> str:
    return Hasher.hash((data.ids, data.offsets))
