"""Finds training labels that out-of-fold models contradict: K launches of a recipe, each without one fold."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from .. import __version__
from ..data.fingerprints import content_fingerprint
from ..errors import InputError
from ..evaluation.preferences import PreferencePairs, read_preferences, rows_of
from ..models.files import FINAL_RESULTS_NAME
from ..models.out_of_memory import free_memory
from ..output.folders import replace_text
from ..output.json_files import read_mapping
from ..output.progress import no_bar, say
from ..output.redaction import redact
from ..training.recipe import read_values
from .folds import Folds
from .runner import call, reason_in


if TYPE_CHECKING:
    from datasets import Dataset


RUN_NAME, MARGINS_NAME, FOLDS_FOLDER = "doubt.json", "margins.json", "folds"
REDO = "Restore the file, or remove it to train its fold again."


@dataclass
class DoubtRun:
    """
    One search for doubtful labels; its folder keeps finished folds, so that it can be stopped and started again.

    Args:
        output (`Path`): The folder.
        config (`str`): The recipe.
        flags (`list[str]`): Settings that override it, as flags.
        stage (`str`): `grft` or `crft`.
        script (`Path`): The recipe's script.
        folds (`int`): Number of folds.
        launch (`list[str]`): Command in front of the script.
        device (`str`, *optional*): Where the held-out folds are scored; default: a GPU if there is one.
        keep_models (`bool`): Whether the models are kept.
    """

    output: Path
    config: str
    flags: list[str]
    stage: str
    script: Path
    folds: int = 5
    launch: Sequence[str] = field(default_factory=lambda: [sys.executable, "-m", "accelerate.commands.launch"])
    device: str | None = None
    keep_models: bool = False

    def folder(self, fold: int) -> Path:
        """Folder of a fold, counted from 0; its name counts from 1."""
        return self.output / FOLDS_FOLDER / f"fold-{fold + 1}"

    def identity(self, datasets: Mapping[str, Dataset], seed: int) -> dict[str, Any]:
        """What must be equal for the folds of an earlier call to count."""
        return {
            "rm_toolkit": __version__,
            "stage": self.stage,
            "config": hashlib.sha256(Path(self.config).read_bytes()).hexdigest()[:16],
            "flags": redact(self.flags),
            "folds": self.folds,
            "seed": seed,
            "datasets": {name: content_fingerprint(data) for name, data in datasets.items()},
        }

    def begin(self, identity: dict[str, Any], overwrite: bool) -> None:
        """
        Opens the folder: a new one, one that the same search has begun, or with `overwrite` one of another search.

        Raises:
            `InputError`: if the folder has other files, or another search.
        """
        path = self.output / RUN_NAME
        if self.output.is_dir() and any(self.output.iterdir()) and not path.is_file():
            raise InputError(
                f"{self.output}: the output folder is in use, but not by `rm-toolkit doubt`. Name another one."
            )
        if path.is_file():
            earlier = read_mapping(path, remedy="Remove the folder, or name another one.")
            other = next((key for key in identity if earlier.get(key) != identity[key]), None)
            if overwrite and other is not None:
                shutil.rmtree(self.output / FOLDS_FOLDER, ignore_errors=True)
            elif other is not None and not overwrite:
                raise InputError(
                    f"{self.output} has folds of another search: its `{other}` is {_short(earlier.get(other))}, here it "
                    f"is {_short(identity[other])}. Name another --output, or pass --overwrite to start over."
                )
        self.output.mkdir(parents=True, exist_ok=True)
        replace_text(path, json.dumps(identity, indent=1) + "\n")

    def run(self, datasets: Mapping[str, Dataset], folds: Folds) -> list[list[JudgedPairs]]:
        """
        Trains and scores every fold that is not done; returns the results of each fold.

        Args:
            datasets (`dict[str, Dataset]`): Training data by name.
            folds (`Folds`): Folds of their rows.

        Raises:
            `InputError`: if a run of the recipe fails, with its message.
        """
        found = []
        with tqdm(total=self.folds, unit="fold", dynamic_ncols=True, disable=no_bar()) as bar:
            for fold in range(self.folds):
                parts = folds.part(datasets, fold, held_out=True)
                pairs = [table for name, part in parts.items() if (table := _pairs_of(part, name)) is not None]
                found.append(self._judge(fold, pairs, folds.part(datasets, fold, held_out=False), bar))
                bar.update()
        return found

    def _judge(
        self, fold: int, pairs: list[PreferencePairs], training: dict[str, Dataset], bar: tqdm
    ) -> list[JudgedPairs]:
        path = self.folder(fold) / MARGINS_NAME
        if path.is_file():
            say(f"fold {fold + 1} of {self.folds}: done before")
        else:
            bar.set_postfix_str(f"fold {fold + 1}: training")
            trained = (self.folder(fold) / "model" / FINAL_RESULTS_NAME).is_file()
            if trained:
                say(f"fold {fold + 1} of {self.folds}: trained before, scoring")
            elif bar.disable:
                say(f"fold {fold + 1} of {self.folds}: training, see {self.folder(fold) / 'log.txt'}")
            model = self._train(fold, training)
            bar.set_postfix_str(f"fold {fold + 1}: scoring")
            margins = {table.name: values.tolist() for table, values in zip(pairs, self._score(model, pairs))}
            replace_text(path, json.dumps({"fold": fold + 1, "margins": margins}) + "\n")
            if not self.keep_models:  # models that an earlier call was told to keep are kept
                shutil.rmtree(model, ignore_errors=True)
        shutil.rmtree(self.folder(fold) / "data", ignore_errors=True)
        stored = read_mapping(path, remedy=REDO).get("margins")
        lengths = {table.name: len(table) for table in pairs}
        if not isinstance(stored, dict) or {name: len(own) for name, own in stored.items()} != lengths:
            raise InputError(f"{path} does not have the margins of this fold. {REDO}")
        return [JudgedPairs(table, fold, np.array(stored[table.name], dtype=np.float64)) for table in pairs]

    def _train(self, fold: int, training: dict[str, Dataset]) -> Path:
        """Launches the recipe on all other folds; a stopped run resumes from its checkpoint."""
        folder = self.folder(fold)
        model = folder / "model"
        if (model / FINAL_RESULTS_NAME).is_file():  # written last: only scoring was left
            return model
        specs = {
            name: {"path": _stored(part, folder / "data" / name), "split": "train"} for name, part in training.items()
        }
        settings = {
            "train_datasets": json.dumps(specs),
            "eval_datasets": "{}",
            "eval_strategy": "no",
            "eval_on_start": "false",
            "load_best_model_at_end": "false",
            "metric_for_best_model": "",
            "output_dir": str(model),
            "overwrite_output_dir": "true",
            "resume_from_checkpoint": "auto",
            "push_to_hub": "false",
            "report_to": "none",
            "next_command": "",
        }
        if read_values(self.config, self.flags)["save_strategy"] == "best":  # nothing is evaluated here
            settings["save_strategy"] = "steps"
        words = [word for name, value in settings.items() for word in (f"--{name}", value)]
        code = call([*self.launch, str(self.script), "--config", self.config, *self.flags, *words], folder / "log.txt")
        if code:
            raise InputError(
                f"fold {fold + 1}: the run failed (exit code {code}): {reason_in(folder / 'log.txt')} "
                f"See {folder / 'log.txt'}; if started again, the search continues from here."
            )
        return model

    def _score(self, model: Path, pairs: list[PreferencePairs]) -> list[np.ndarray]:
        from ..scoring.scorer import RewardScorer

        trust = bool(read_values(self.config, self.flags).get("trust_remote_code"))
        scorer = RewardScorer(model, device=self.device, trust_remote_code=trust)
        rewards = [np.array(scorer.score(own.prompts, own.completions, **own.columns)) for own in pairs]
        del scorer
        free_memory()  # the next fold trains on the same GPU
        return [own[table.better] - own[table.worse] for own, table in zip(rewards, pairs)]


@dataclass
class JudgedPairs:
    """
    The pairs of one dataset in one fold, judged by the model that was trained on the other folds.

    Args:
        pairs (`PreferencePairs`): The pairs.
        fold (`int`): Index of the fold, from 0.
        margins (`np.ndarray` of shape `(num_pairs,)`): Reward of the chosen minus that of the rejected response.
    """

    pairs: PreferencePairs
    fold: int
    margins: np.ndarray


def _pairs_of(part: Dataset, name: str) -> PreferencePairs | None:
    """The pairs of the rows of a fold; `None` if all of them are ties."""
    if not any(row.pair_up().pairs for row, _ in rows_of(part, name)):
        return None
    return read_preferences(part, name)


def _stored(part: Dataset, folder: Path) -> str:
    """Writes the training rows of a fold; returns the path for the recipe."""
    from datasets import DatasetDict, disable_progress_bars, enable_progress_bars, is_progress_bar_enabled

    shutil.rmtree(folder, ignore_errors=True)
    shown = is_progress_bar_enabled()
    disable_progress_bars()  # the folds have their own bar
    try:
        DatasetDict({"train": part}).save_to_disk(folder)
    finally:
        if shown:
            enable_progress_bars()
    return str(folder.absolute())


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else text[:120] + "…"
