"""Which files of an output folder a run has written; removes those, and nothing else."""

from __future__ import annotations

import contextlib
import fnmatch
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from transformers import TrainerCallback

from ..errors import InputError
from ..models.files import (
    ANCHOR_FOLDER,
    CARD_NAME,
    CONFIG_NAME,
    LEFTOVERS,
    MANIFEST_NAME,
    MERGE_NAME,
    SETTINGS_NAME,
    find_row,
    run_files,
)
from ..output.json_files import load_json
from ..output.lock import LOCK_NAME
from ..output.written import RUN_MANIFEST, begin_written, is_inside, read_written, record_written
from .manifest import checkpoints, read_manifest, was_begun_by_us
from .output_dir import on_main_process


ANCHOR_FILES = ("data-*.arrow", "dataset_info.json", "state.json")
# Where the integrations of `report_to` write within the output folder.
REPORTS = ("runs", "wandb", "mlruns", "trackio", "emissions.csv", "emissions.csv.bak")
EVENT_FILES = "events.out.tfevents*"
EVENTS_OF_OURS = (b"pairs_per_step", b"lm_loss_coef")  # settings in the log of any run of this toolkit
CARD_OF_OURS = "A reward model trained with [rm_toolkit](https://github.com/rm-toolkit/rm-toolkit)"
NOT_OF_A_RUN = (MERGE_NAME, ".rm_toolkit_push.json", ".cache/huggingface")  # a merge; a download from the Hub
ONLY_OF_SFT = (
    "generation_config.json",
    "trainer_state.json",
)  # its folders of 0.2.1 cannot be distinguished from others


def is_in_use(folder: str | os.PathLike) -> bool:
    """Whether a folder has anything besides a lock file and the list of a run that has written nothing yet."""
    folder = Path(folder)
    return folder.is_dir() and any(path.name not in (LOCK_NAME, RUN_MANIFEST) for path in folder.iterdir())


def own_files(folder: str | os.PathLike) -> list[str] | None:
    """
    Returns the files that runs of this toolkit have written into a folder.

    A run keeps a list. A folder of version 0.2.1 or earlier has none: there, files count by the names that this
    version wrote, except for a card, a `config.json` and `runs/` whose content is not ours.

    Args:
        folder (`str` or `os.PathLike`): An output folder.

    Returns:
        `list[str]`, *optional*: Paths of files, relative to the folder; `None` if no run of this toolkit wrote the
        folder.
    """
    folder = Path(folder)
    names = read_written(folder)
    if names is None:
        if not is_of_earlier_version(folder):
            return None
        return list(_files_of_earlier_version(folder))
    found = [name for name in names if not name.endswith("/")]
    for name in names:
        if name.endswith("/"):
            found += _files_in(folder, name.removesuffix("/"))
    return [*found, *(path.name for pattern in LEFTOVERS for path in folder.glob(pattern)), RUN_MANIFEST]


def is_of_earlier_version(folder: Path) -> bool:
    """Whether a run of version 0.2.1 or earlier wrote a folder: it has our settings, or a checkpoint with them."""
    if any(os.path.lexists(folder / name) for name in NOT_OF_A_RUN):
        return False
    return _are_settings(folder / SETTINGS_NAME) or any(
        _are_settings(path / SETTINGS_NAME) and bool(read_manifest(path)) for path in checkpoints(folder).values()
    )


def begin_run(output_dir: str | os.PathLike) -> None:
    """Starts the list of a run's files, including those that an earlier version wrote into the folder."""
    begin_written(output_dir, own_files(output_dir) or ())


def clear_output_dir(output_dir: str) -> None:
    """
    Removes what earlier runs wrote into an output folder, and nothing else. Called when the new run is ready to start.

    Empty folders are removed too; links are removed and never followed.

    Raises:
        `InputError`: if a folder in it is not writable; then nothing is removed.
    """
    on_main_process(lambda: _remove(Path(output_dir)))


def _remove(folder: Path) -> None:
    names = own_files(folder)
    if names is None:  # killed before its first checkpoint, by an earlier version
        names = list(_files_of_earlier_version(folder))
    for parent in sorted({(folder / name).parent for name in names}):
        if parent.is_dir() and not os.access(parent, os.W_OK | os.X_OK):
            raise InputError(f"{parent} is not writable, so {folder} cannot be overwritten. Nothing was changed.")
    # A checkpoint without its manifest does not count, and the list is removed last: after a kill the next start
    # finishes.
    names.sort(key=lambda name: (name == RUN_MANIFEST, Path(name).name != MANIFEST_NAME, name))
    for name in names:
        _remove_one(folder, name)


def _remove_one(folder: Path, name: str) -> None:
    path = folder
    for part in Path(name).parts:
        path = path / part
        if path.is_symlink():  # a run did not write the target
            path.unlink()
            return
    if path.is_dir():
        if any(path.match(pattern) for pattern in LEFTOVERS):
            shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            path.unlink()
    with contextlib.suppress(OSError):
        while (path := path.parent) != folder:
            path.rmdir()


def _files_in(folder: Path, name: str) -> Iterator[str]:
    """What a run wrote into one of its folders; a person may have added other files."""
    top = folder / name
    if top.is_symlink():
        yield name
        return
    listed = set((read_manifest(top) or {}).get("files", ()))
    for place, folders, files in os.walk(top):
        links = [link for link in folders if os.path.islink(os.path.join(place, link))]
        for file in [*files, *links]:
            inside = Path(place, file).relative_to(top).as_posix()
            if name == ANCHOR_FOLDER:
                ours = any(fnmatch.fnmatch(inside, pattern) for pattern in ANCHOR_FILES)
            else:
                ours = inside in listed or _is_of_checkpoint(inside)
            if ours and is_inside(inside):
                yield f"{name}/{inside}"
    if top.is_dir() and not any(top.iterdir()):
        yield f"{name}/{MANIFEST_NAME}"  # would come last; removed with its folder


def _is_of_checkpoint(name: str) -> bool:
    row = find_row(name)
    of_leftover = any(fnmatch.fnmatch(name.split("/")[0], pattern) for pattern in LEFTOVERS)
    return of_leftover or (row is not None and row.writer != "person" and row.name != "*.py")


def _files_of_earlier_version(folder: Path) -> Iterator[str]:
    for name in run_files(folder) if folder.is_dir() else ():
        path = folder / name
        if os.path.islink(str(path).rstrip("/")) or name in ONLY_OF_SFT:
            continue
        if any(path.match(pattern) for pattern in LEFTOVERS):
            yield name.rstrip("/")
        elif name == "runs/":
            yield from (f.relative_to(folder).as_posix() for f in path.rglob(EVENT_FILES) if _is_our_log(f))
        elif name.endswith("/"):
            if path.name == ANCHOR_FOLDER or was_begun_by_us(path):
                yield from _files_in(folder, name.rstrip("/"))
        elif name != CONFIG_NAME or _is_our_config(path):
            yield name
    if _is_our_card(folder / CARD_NAME):
        yield CARD_NAME


def _are_settings(path: Path) -> bool:
    return "pooling_type" in _read_json(path)


def _is_our_config(path: Path) -> bool:
    """Whether a config is that of a sequence classifier with one label, as only a reward model has."""
    values = _read_json(path)
    names = values.get("architectures") or [""]
    named = str(names[0]).endswith("ForSequenceClassification") or names == ["RewardModel"]
    return named and "transformers_version" in values and len(values.get("id2label") or ()) == 1


def _is_our_card(path: Path) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return not path.is_symlink() and CARD_OF_OURS in path.read_text(encoding="utf-8")
    return False


def _is_our_log(path: Path) -> bool:
    with contextlib.suppress(OSError):
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        return all(word in content for word in EVENTS_OF_OURS)
    return False


def _read_json(path: Path) -> dict:
    with contextlib.suppress(OSError, ValueError):
        values = load_json(path) if not path.is_symlink() else None
        return values if isinstance(values, dict) else {}
    return {}


class RecordReports(TrainerCallback):
    """
    Adds what the integrations of `report_to` write into the output folder to the list of a run.

    Args:
        output_dir (`str`): Output folder of the run.
    """

    def __init__(self, output_dir: str):
        self.folder = Path(output_dir)
        self.others = {*self._files()} - {*(read_written(self.folder) or ())}

    def _files(self) -> Iterable[str]:
        for name in REPORTS:
            path = self.folder / name
            for file in path.rglob("*") if path.is_dir() and not path.is_symlink() else [path]:
                if file.is_file() and not file.is_symlink():
                    yield file.relative_to(self.folder).as_posix()

    def _record(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            record_written(self.folder, sorted({*self._files()} - self.others), are_there=True)

    on_train_begin = on_log = on_save = on_evaluate = on_train_end = _record
