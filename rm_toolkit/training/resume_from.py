"""Which checkpoint a run resumes from, and which ones it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from ..errors import InputError
from ..models.files import MANIFEST_NAME
from ..output.console import console
from ..output.shared_files import await_files
from .manifest import checkpoints, find_checkpoint, find_damage, is_unfinished, read_manifest, refuse_damaged
from .resume_checks import refuse_other_runs


if TYPE_CHECKING:
    from .config import RewardModelConfig


def resolve_resume(training: RewardModelConfig) -> str | None:
    """
    Turns `--resume_from_checkpoint auto|true|PATH` into a folder.

    Returns:
        `str` or `None`: `None` for a new run; with `auto`, also if there is no checkpoint yet.

    Raises:
        `InputError`: if the named checkpoint does not exist, or this run cannot resume from it.
    """
    wanted = training.resume_from_checkpoint
    if wanted in (None, False, "false", "False", ""):
        return None
    if wanted in (True, "true", "True"):
        wanted = True
    return checked_checkpoint(wanted, training.output_dir)


def goes_on(training: RewardModelConfig, resume: str | None) -> bool:
    """
    Whether a run may begin in an output folder that is in use: it resumes, or `auto` finds a run that was killed
    early.

    Args:
        training (`RewardModelConfig`): Its arguments.
        resume (`str`, *optional*): From [`resolve_resume`].
    """
    return resume is not None or (training.resume_from_checkpoint == "auto" and is_unfinished(training.output_dir))


def checked_checkpoint(wanted: str | bool | None, output_dir: str) -> str | None:
    """
    Finds and checks the checkpoint to resume from. One process reads the files; all get the result.

    Args:
        wanted (`str` or `bool`, *optional*): A folder, `True` or `"auto"` for the newest complete one, or `None`.
        output_dir (`str`): Output folder of the run.

    Returns:
        `str` or `None`: The folder; `None` if `wanted` is, or `"auto"` finds none.

    Raises:
        `InputError`: naming the folder or file and what to do.
    """
    if not wanted:
        return None
    answer: list[Any] = [None, None]
    if PartialState().is_main_process:
        try:
            answer[0] = _find_and_check(wanted, output_dir)
        except InputError as error:
            answer[1] = str(error)
    broadcast_object_list(answer)
    if answer[1]:
        raise InputError(answer[1])
    if answer[0]:
        folder = Path(answer[0])
        await_files([folder / MANIFEST_NAME])
        await_files(folder / name for name in (read_manifest(folder) or {}).get("files", ()))
    return answer[0]


def _find_and_check(wanted: str | bool, output_dir: str) -> str | None:
    folder = str(wanted)
    if wanted in (True, "auto"):
        found, damaged = find_checkpoint(output_dir)
        if found is None and damaged:
            raise InputError(f"{damaged[0]}. No other checkpoint is complete: restore the file, or start a new run.")
        if found is None and wanted == "auto":
            return None
        if found is None:
            raise InputError(f"{output_dir} has no checkpoint to resume from. Start without the flag, or use `auto`.")
        for line in damaged:
            console.print(f"warning: {line}. The run continues from {found} instead.")
        folder = found
    check_resumable(folder, output_dir)
    refuse_other_runs(folder, output_dir)
    return folder


def check_resumable(folder: str, output_dir: str) -> None:
    """
    Refuses a checkpoint that is damaged, is elsewhere, is older than others, or cannot be continued exactly.

    Optimizer and RNG states are pickles, and DeepSpeed loads its own without restriction, so they can run code. They
    are read only from where this run has written them.

    Args:
        folder (`str`): The checkpoint.
        output_dir (`str`): Output folder of the run.

    Raises:
        `InputError`: naming the file or folder and what to do.
    """
    named = f"`resume_from_checkpoint` is '{folder}'"
    path = Path(folder).resolve()
    if not path.is_dir():
        raise InputError(f"{named}, which is not a folder. Name a checkpoint-N folder, or `auto`.")
    for pattern, what in (("*.safetensors", "no weights"), ("trainer_state.json", "no state of a run")):
        if not any(path.glob(pattern)):
            raise InputError(
                f"{named}, which has {what} (`{pattern}`), so it is not a checkpoint of a run. Name a checkpoint-N "
                f"folder, or "
                "`auto`."
            )
    if path.parent != Path(output_dir).resolve() or path not in [
        p.resolve() for p in checkpoints(output_dir).values()
    ]:
        raise InputError(
            f"{named}, which is not a checkpoint-N folder in `output_dir` {output_dir}. Its optimizer state is a pickle, "
            "which can run code when it is read: if the checkpoint is your own, set `output_dir` to its parent folder, or "
            "move it there."
        )
    refuse_damaged(folder)
    step = int(path.name.rpartition("-")[2])
    newer = [other for n, other in checkpoints(output_dir).items() if n > step and find_damage(other) is None]
    if newer:
        raise InputError(
            f"{named}, but the run continued to {newer[-1]}, which a later `auto` would use. Move the newer ones away "
            "to resume from this one."
        )
    state = [path / "optimizer.pt", path / "optimizer.bin", *path.glob("global_step*"), *path.glob("optimizer_*")]
    if not any(file.exists() for file in state):
        raise InputError(
            f"{folder} holds weights but no optimizer state (`save_only_model`): a run cannot resume from it. Start a new "
            "run from it with --model_name_or_path."
        )
