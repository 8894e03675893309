"""What of an evaluation goes to the Hub beside a model."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..errors import InputError
from ..models.files import FIGURE_FOLDER
from .places import shorten_paths


def stage_evaluation(evaluation: str, target: Path) -> list[str]:
    """
    Copies the report and the figures that `rm-toolkit evaluate` wrote.

    Args:
        evaluation (`str`): Its output folder.
        target (`Path`): What is published; they get the subfolder `evaluation/`.

    Returns:
        `list[str]`: Paths of the figures in the repository.

    Raises:
        `InputError`: if the folder holds neither.
    """
    source = Path(evaluation)
    here = source.resolve()
    figures = sorted(path for path in source.glob("figures/*.png") if path.resolve().is_relative_to(here))
    report = source / "report.md"
    if not figures and not report.is_file():
        raise InputError(
            f"--evaluation {evaluation}: there is no `report.md` and no `figures/*.png`. Give a folder that "
            "`rm-toolkit evaluate` wrote."
        )
    folder = target / FIGURE_FOLDER
    shutil.rmtree(folder, ignore_errors=True)  # an earlier one, from the model's folder
    (folder / "figures").mkdir(parents=True)
    for path in figures:
        shutil.copyfile(path, folder / path.relative_to(source))
    if report.is_file():
        # It shows the command with which it was made; of a path from the root, the last part is enough.
        text = shorten_paths(report.read_text(encoding="utf-8"))
        (folder / report.name).write_text(text, encoding="utf-8")
    return [f"{FIGURE_FOLDER}/figures/{path.name}" for path in figures]
