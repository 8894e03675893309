"""The starting model's judgement of the replayed pairs: computed once, kept in Arrow, so that no second model is held."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from datasets import Dataset, load_from_disk
from datasets.fingerprint import Hasher
from transformers import TrainerCallback

from ..batches.tokenization import TokenizedPreferences
from ..errors import InputError
from ..models.files import ANCHOR_FOLDER
from ..output.written import record_written


if TYPE_CHECKING:
    from .trainer import RewardModelTrainer


class AnchorCallback(TrainerCallback):
    """
    Scores the replayed general pairs with the model as it is before the first step, or reads these scores on resume.

    Args:
        trainer (`RewardModelTrainer`): Its `replay_data` is scored; its joined training data get the margins.
    """

    def __init__(self, trainer: RewardModelTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        general = self.trainer.replay_data
        folder = Path(args.output_dir, ANCHOR_FOLDER)
        if state.global_step:  # the weights are no longer the general model's
            rewards = load_anchor_rewards(folder, general)
        else:
            rewards = self.trainer.compute_rewards(general)
            if args.should_save:
                record_written(args.output_dir, [f"{ANCHOR_FOLDER}/"])
                save_anchor_rewards(folder, general, rewards)
        margin = np.full(len(self.trainer.train_data), np.nan, dtype=np.float32)
        margin[len(margin) - len(general) :] = rewards[general.better] - rewards[general.worse]
        self.trainer.train_data.anchor_margin = margin


def save_anchor_rewards(folder: Path, data: TokenizedPreferences, rewards: np.ndarray) -> None:
    """
    Writes the rewards as an Arrow data set, beside its place first.

    Args:
        folder (`Path`): Replaced if it is there.
        data (`TokenizedPreferences`): What was scored.
        rewards (`np.ndarray` of shape `(num_sequences,)`): In logits.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder.parent) as temporary:
        rows = Dataset.from_dict({"reward": rewards.astype(np.float32), "num_tokens": data.lengths})
        rows.info.description = _fingerprint(data)
        rows.save_to_disk(Path(temporary, ANCHOR_FOLDER))
        shutil.rmtree(folder, ignore_errors=True)
        Path(temporary, ANCHOR_FOLDER).rename(folder)


def load_anchor_rewards(folder: Path, data: TokenizedPreferences) -> np.ndarray:
    """
    Reads what [`save_anchor_rewards`] wrote for the same sequences.

    Raises:
        `InputError`: if it is not there, or belongs to other data.
    """
    try:
        rows = load_from_disk(str(folder))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder} cannot be read ({error}). The anchor was computed by the model before its first step and cannot "
            "be had again from a checkpoint: start afresh, or resume with --anchor_coef 0."
        ) from error
    if rows.info.description != _fingerprint(data):
        raise InputError(
            f"{folder} holds the rewards of other general pairs than `replay_datasets` gives now. Resume with the data "
            "(and `max_length`) of the run's start, or start afresh."
        )
    return np.array(rows["reward"], dtype=np.float32)


def _fingerprint(data: TokenizedPreferences) -> str:
    return Hasher.hash((data.ids, data.offsets))
