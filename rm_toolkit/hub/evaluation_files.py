"""The files of an evaluation that are published with a model: numbers and figures; texts only on request."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..errors import InputError
from ..models.files import FIGURE_FOLDER
from ..output.json_files import read_mapping
from ..output.page.document import DATA_FOLDER, rewrite_content
from .places import shorten_paths


PAIRS_NAME, PAGE_NAME, METRICS_NAME = "pairs.parquet", "report.html", "metrics.json"


def stage_evaluation(evaluation: str, target: Path, *, publish_texts: bool = False) -> list[str]:
    """
    Copies the report and the figures that `rm-toolkit evaluate` wrote; the page and the pairs have the texts of the
    test sets and are not published.

    Args:
        evaluation (`str`): Its output folder.
        target (`Path`): The published folder; they get the subfolder `evaluation/`.
        publish_texts (`bool`): Whether the page and the pairs, with all texts, are copied too.

    Returns:
        `list[str]`: Paths of the figures in the repository.

    Raises:
        `InputError`: if the folder does not have the files to copy.
    """
    source = Path(evaluation)
    here = source.resolve()
    figures = sorted(path for path in source.glob("figures/*.png") if path.resolve().is_relative_to(here))
    report = source / "report.md"
    if not figures and not report.is_file():
        raise InputError(
            f"--evaluation {evaluation}: there is no `report.md` and no `figures/*.png`. Give a folder written by "
            "`rm-toolkit evaluate`."
        )
    folder = target / FIGURE_FOLDER
    shutil.rmtree(folder, ignore_errors=True)  # an earlier one, from the model's folder
    (folder / "figures").mkdir(parents=True)
    for path in figures:
        shutil.copyfile(path, folder / path.relative_to(source))
    if report.is_file():
        # The report shows its command; of absolute paths, the last part is enough.
        text = shorten_paths(report.read_text(encoding="utf-8"))
        (folder / report.name).write_text(text, encoding="utf-8")
    if publish_texts:
        _stage_texts(source, folder)
    return [f"{FIGURE_FOLDER}/figures/{path.name}" for path in figures]


def _stage_texts(source: Path, folder: Path) -> None:
    """Copies the pairs and the page with its data; paths in its report are shortened, texts are not changed."""
    here = source.resolve()
    data = sorted(source.glob(f"{DATA_FOLDER}/*.js"))
    for path in (source / PAIRS_NAME, source / PAGE_NAME, *data):
        if not path.is_file() or not path.resolve().is_relative_to(here):
            raise InputError(
                f"--publish-texts: {path} is not there, or is a link out of the folder; nothing was sent. Run "
                "`rm-toolkit evaluate` again, or leave --publish-texts out."
            )
    metrics = read_mapping(source / METRICS_NAME, remedy="Run `rm-toolkit evaluate` again.")
    for what, flag, names in (("model", "--model", "results"), ("test set", "--datasets", "datasets")):
        for name in metrics.get(names, {}):
            if shorten_paths(name) != name:
                raise InputError(
                    f"--publish-texts: the evaluation calls a {what} '{name}', which is a path of this machine and is in "
                    f"every row; nothing was sent. Evaluate again with {flag} NAME=…."
                )
    shutil.copyfile(source / PAIRS_NAME, folder / PAIRS_NAME)
    rewrite_content(source / PAGE_NAME, folder / PAGE_NAME, shorten_paths)
    if data:
        (folder / DATA_FOLDER).mkdir()
    for path in data:
        shutil.copyfile(path, folder / DATA_FOLDER / path.name)
