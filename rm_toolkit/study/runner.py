"""Runs the cells of a study, each as the command a user would type; finished cells are kept."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from ..errors import InputError
from ..evaluation.pair_rewards import PairRewards, read_pair_rewards, write_pair_rewards
from ..models.files import FINAL_PAIRS_NAME, FINAL_RESULTS_NAME, TRAINING_LOG_NAME
from ..output.ending import hint_if_stopped
from ..output.folders import replace_text
from ..output.json_files import load_json, read_mapping
from ..output.lock import OutputHeld, WriterLock, is_held
from ..output.progress import no_bar, say
from .grid import PLAIN, Cell, StudyConfig, cells, command, customized_set, merged_name
from .start import check_start


if TYPE_CHECKING:
    from ..merging.frontier import Point

RESULT_NAME = "result.json"
PAIRS_NAME = "pairs.parquet"
REDO = "Restore it, or remove it: its cell is then run again."
# Variables that a launcher sets for its processes: a cell is a separate launch.
LAUNCH_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK")
SECONDS_BETWEEN_LOOKS = 5.0


class StudyRunner:
    """
    Runs the missing cells. Several runners may work on one study: a cell is locked by the runner that runs it.

    Args:
        study (`StudyConfig`): The grid.
        retry_failed (`bool`): Whether to run cells again that failed in an earlier call.
    """

    def __init__(self, study: StudyConfig, *, retry_failed: bool = True):
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise InputError(
                "a study launches its own runs: start it in one process (`accelerate launch` with one process, or "
                "`python`), and describe the hardware of the runs in its `launch`."
            )
        check_start(study)
        self.study = study
        self.cells = cells(study)
        self.failed: dict[Cell, str] = {}
        if retry_failed:
            for cell in self.cells:
                Path(self.folder(cell), "failed").unlink(missing_ok=True)

    def folder(self, cell: Cell) -> Path:
        """The folder of a cell."""
        return Path(self.study.output_dir, "cells", cell.name)

    def result(self, cell: Cell) -> dict[str, Any] | None:
        """Results of a finished cell, or `None`."""
        path = self.folder(cell) / RESULT_NAME
        if not path.exists():
            return None
        result = read_mapping(path, remedy=REDO)
        missing = next((key for key in ("cell", "results", "log_history") if key not in result), None)
        if missing is not None:
            raise InputError(f"{path} has no `{missing}`. {REDO}")
        return result

    def pairs(self, cell: Cell) -> dict[str, dict[str, PairRewards]]:
        """
        Rewards at the end of a finished cell: strategy (`""` of GRFT) -> test set -> rewards; also of its merges. Empty if none
        were kept.
        """
        folder = self.folder(cell)
        if not (folder / RESULT_NAME).is_file() or not (folder / PAIRS_NAME).is_file():
            return {}
        found = {cell.strategy or "": read_pair_rewards(folder / PAIRS_NAME)}
        for weight in sorted(set(self.study.merge_weights)):
            path = folder / f"merged-{weight:g}-{PAIRS_NAME}"
            if path.is_file():
                found[merged_name(cell.strategy or PLAIN, f"{weight:g}")] = read_pair_rewards(path)
        return found

    def run(self) -> bool:
        """
        Runs every cell without a result; returns whether all have one at the end.

        A cell that fails is reported and skipped, along with the cells that start from it.
        """
        bar = tqdm(total=len(self.cells), unit="cell", dynamic_ncols=True, disable=no_bar())
        with bar, hint_if_stopped("Finished runs are kept; the same command continues."):
            while True:
                waiting = [cell for cell in self.cells if self._state(cell) == "waiting"]
                bar.update(len(self.cells) - len(waiting) - bar.n)
                if not waiting:
                    break
                if not any(self._try(cell, bar) for cell in waiting):
                    time.sleep(SECONDS_BETWEEN_LOOKS)  # all remaining cells are being run by another runner
        return all(self.result(cell) for cell in self.cells)

    def _state(self, cell: Cell) -> str:
        if (self.folder(cell) / RESULT_NAME).is_file():
            return "done"
        if (self.folder(cell) / "failed").is_file():
            return "failed"
        if cell.start is not None and self._state(cell.start) == "failed":
            self.failed[cell] = f"{cell.start.name} failed"
            return "failed"
        return "waiting"

    def _try(self, cell: Cell, bar: tqdm) -> bool:
        """Runs a cell if its starting model exists and no other runner runs it; returns whether it did."""
        if cell.start is not None and self._state(cell.start) != "done":
            return False
        folder = self.folder(cell)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with WriterLock(folder, alone=True):
                if self._state(cell) != "waiting":
                    return True
                if is_held(folder / "model"):  # a run that has survived its runner
                    return False
                bar.set_postfix_str(cell.name)
                if bar.disable:
                    say(f"{cell.name}: {len(self.cells)} cells in all")
                self._compute(cell, folder)
        except OutputHeld:
            return False
        bar.update(1)
        return True

    def _compute(self, cell: Cell, folder: Path) -> None:
        model = folder / "model"
        start = None if cell.start is None else self.folder(cell.start) / "model"
        words = command(self.study, cell, model, start)
        begin = time.perf_counter()
        code = call(words, folder / "log.txt")
        if code:
            reason = reason_in(folder / "log.txt")
            self.failed[cell] = reason
            (folder / "failed").write_text(reason + "\n", encoding="utf-8")
            say(f"{cell.name} failed (exit code {code}): {reason}\n  {folder / 'log.txt'}")
            return
        log, results = load_json(model / TRAINING_LOG_NAME), load_json(model / FINAL_RESULTS_NAME)
        if cell.start is not None and not results["start"]:
            results["start"] = self.result(cell.start)["results"]["end"]
        result = {
            "cell": {name: getattr(cell, name) for name in cell.__dataclass_fields__},
            "command": shlex.join(words),
            "seconds": time.perf_counter() - begin,
            "results": results,
            "pairs_per_step": log["pairs_per_step"],
            "log_history": log["log_history"],
        }
        if self.study.merge_weights and cell.strategy in self.study.merge_strategies and start is not None:
            points = merged_models(self.study, cell, words, start, model)
            result["merged"] = {
                f"{point.weight:g}": {name: sets.accuracy for name, sets in point.sets.items()} for point in points
            }
            for point in points:
                write_pair_rewards(point.pairs, folder / f"merged-{point.weight:g}-{PAIRS_NAME}")
        if (model / FINAL_PAIRS_NAME).is_file():
            shutil.copyfile(model / FINAL_PAIRS_NAME, folder / PAIRS_NAME)
        if cell.stage == "crft" and not self.study.keep_models:
            shutil.rmtree(model)
        else:
            for checkpoint in model.glob("checkpoint-*"):
                shutil.rmtree(checkpoint)
        replace_text(folder / RESULT_NAME, json.dumps(result, indent=1) + "\n")


def merged_models(study: StudyConfig, cell: Cell, words: list[str], general: Path, customized: Path) -> list[Point]:
    """
    Evaluates merges of a GRFT model and its CRFT model on every test set.

    Args:
        study (`StudyConfig`): Its `merge_weights`.
        cell (`Cell`): The CRFT run.
        words (`list[str]`): Its command, with the test sets.
        general, customized (`Path`): Folders of the two models.

    Returns:
        `list[Point]`: One for each weight.
    """
    from ..merging.frontier import evaluate_between
    from ..training.recipe import parse_recipe

    flags = words[words.index("--config") + 2 :]
    recipe, training, _ = parse_recipe(study.crft.config, flags)
    own = customized_set(study, cell.domain)
    return evaluate_between(
        general,
        customized,
        {name: recipe.eval_datasets[name] for name in study.general_sets},
        {own: recipe.eval_datasets[own]},
        sorted(set(study.merge_weights)),
        seed=cell.seed,
        bf16=training.bf16,
        show_progress=False,
    )


def reason_in(log: Path) -> str:
    """Returns the line of a failed run's output with the reason."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return next((line for line in lines if line.startswith("error: ")), lines[-1] if lines else "no output")


def call(words: list[str], log: Path) -> int:
    """Runs a command in its own process group, which ends with this process; its output goes to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {name: value for name, value in os.environ.items() if name not in LAUNCH_VARIABLES}
    with log.open("wb") as output:
        process = subprocess.Popen(words, stdout=output, stderr=output, env=environment, start_new_session=True)
        try:
            return process.wait()
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
            raise
