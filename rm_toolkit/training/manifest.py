"""A checkpoint is complete or does not count: `manifest.json`, written last, has the size and hash of every file."""

from __future__ import annotations

import json
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import xxhash
from tqdm.auto import tqdm

from .. import __version__
from ..errors import InputError
from ..models.files import LEFTOVERS, MANIFEST_NAME, SETTINGS_NAME, find_row, list_folder
from ..output.folders import replace_text
from ..output.json_files import load_json
from ..output.progress import no_bar
from ..output.written import is_inside, read_written


# Pickles and weights, under any name.
READ_ENDINGS = (".pt", ".pth", ".bin", ".pkl", ".safetensors", ".safetensors.index.json")
OF_A_TRAINER = ("trainer_state.json", "training_args.bin")
BLOCK = 1 << 23  # bytes read at once
_seen_whole: dict[Path, tuple] = {}  # sizes and times of checkpoints already verified by this process


def write_manifest(folder: str | os.PathLike, num_processes: int) -> None:
    """
    Declares a checkpoint complete: lists its files and flushes them to disk. Written last.

    Args:
        folder (`str` or `os.PathLike`): The checkpoint; all processes have written their part.
        num_processes (`int`): Processes of the run.
    """
    folder = Path(folder)
    names = sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST_NAME
    )
    files = dict(zip(names, _fingerprints([folder / name for name in names], to_disk=True)))
    content = {"rm_toolkit_version": __version__, "num_processes": num_processes, "files": files}
    replace_text(folder / MANIFEST_NAME, json.dumps(content, indent=1) + "\n")
    _sync_folder(folder)


def read_manifest(folder: str | os.PathLike) -> dict | None:
    """Returns the manifest of a checkpoint; `None` if it has none, because writing it was interrupted."""
    try:
        content = load_json(Path(folder, MANIFEST_NAME))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    files = content.get("files") if isinstance(content, dict) else None
    whole = isinstance(files, dict) and all(
        is_inside(name) and _is_fingerprint(entry) for name, entry in files.items()
    )
    return content if whole else {}


def _is_fingerprint(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("size"), int)


def find_damage(folder: str | os.PathLike) -> str | None:
    """
    Compares every file of a checkpoint with its manifest.

    Returns:
        `str` or `None`: What is wrong, naming the file; `None` if nothing is.
    """
    folder = Path(folder)
    content = read_manifest(folder)
    if content is None:
        return f"it has no `{MANIFEST_NAME}`, so it was never completed"
    if not content:
        return f"its `{MANIFEST_NAME}` is damaged"
    for name, expected in content["files"].items():
        path = folder / name
        if not path.is_file():
            return f"'{name}' is missing"
        if path.stat().st_size != expected["size"]:
            return f"'{name}' has {path.stat().st_size:,} bytes instead of {expected['size']:,}"
    state = tuple((name, os.stat(folder / name).st_mtime_ns) for name in [*content["files"], MANIFEST_NAME])
    if _seen_whole.get(folder.resolve()) != state:
        found = _fingerprints([folder / name for name in content["files"]])
        for (name, expected), fingerprint in zip(content["files"].items(), found):
            if fingerprint != expected:
                return f"'{name}' has changed since it was saved"
        _seen_whole[folder.resolve()] = state
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or path.is_file()}
    unknown = sorted(name for name in names - content["files"].keys() - {MANIFEST_NAME} if _would_be_read(name))
    return f"'{unknown[0]}' was added later" if unknown else None


def _would_be_read(name: str) -> bool:
    """Whether a file is named like weights, a pickle, or anything else that a model or a state is read from."""
    row = find_row(name)
    return name.endswith(READ_ENDINGS) or (row is not None and (row.loaded or row.writer == "checkpoint"))


def checkpoints(output_dir: str | os.PathLike) -> dict[int, Path]:
    """Lists the `checkpoint-N` folders of a run by ascending N, complete or not."""
    found = {}
    for path in Path(output_dir).glob("checkpoint-*"):
        number = re.fullmatch(r"checkpoint-(\d+)", path.name)
        if number and path.is_dir():
            found[int(number[1])] = path
    return dict(sorted(found.items()))


def newest_complete(output_dir: str | os.PathLike) -> str | None:
    """Returns the newest checkpoint that was completed, or `None`; its files are not read."""
    return next((str(path) for path in reversed(checkpoints(output_dir).values()) if read_manifest(path)), None)


def find_checkpoint(output_dir: str | os.PathLike) -> tuple[str | None, list[str]]:
    """
    Finds the newest complete checkpoint of a run.

    Returns:
        `tuple`: Its folder, or `None`; and what is wrong with newer ones that had been completed, one line each. Those
            that
        were never completed are skipped silently: an interrupted save leaves them.
    """
    damaged = []
    for path in reversed(checkpoints(output_dir).values()):
        damage = find_damage(path)
        if damage is None:
            return str(path), damaged
        if read_manifest(path) is not None:
            damaged.append(f"{path} is damaged: {damage}")
    return None, damaged


def is_unfinished(output_dir: str | os.PathLike) -> bool:
    """Whether a folder has nothing but the files of a run that was killed before its first checkpoint."""
    folder = Path(output_dir)
    if not folder.is_dir():
        return False
    rows = dict(list_folder(folder))
    if (written := read_written(folder)) is not None:  # anything else in the folder is kept
        rows = {name: rows[name] for name in written if name in rows}
    return all(row is not None and row.writer in ("trainer", "reports") for row in rows.values()) and all(
        read_manifest(path) is None and was_begun_by_us(path) for path in checkpoints(folder).values()
    )


def was_begun_by_us(checkpoint: Path) -> bool:
    """Whether a checkpoint may be ours: our settings are written before the state of the Trainer."""
    if "rm_toolkit_version" in (read_manifest(checkpoint) or {}):
        return True
    rows = [row for _, row in list_folder(checkpoint)]
    others = any(row is not None and row.writer == "checkpoint" for row in rows) or any(
        (checkpoint / name).exists() for name in OF_A_TRAINER
    )
    return (checkpoint / SETTINGS_NAME).is_file() or not others


def remove_checkpoint(path: Path) -> None:
    """Removes a checkpoint; if killed midway, no partial checkpoint is left under its name."""
    doomed = path.with_name(f".removing-{path.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    os.replace(path, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def clear_leftovers(output_dir: str | os.PathLike, resumed_step: int | None) -> None:
    """
    Removes temporary folders and files of a killed run, and the checkpoint that it was writing.

    Args:
        output_dir (`str` or `os.PathLike`): Output folder of the run.
        resumed_step (`int`, *optional*): Step of the checkpoint that the run resumes from.
    """
    for pattern in LEFTOVERS:
        for path in Path(output_dir).glob(pattern):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
    if resumed_step is not None:
        for step, path in checkpoints(output_dir).items():
            if step > resumed_step and read_manifest(path) is None and was_begun_by_us(path):
                remove_checkpoint(path)


def rotate(output_dir: str | os.PathLike, limit: int | None, newest: str, best: str | None) -> None:
    """
    Removes the oldest checkpoints; called when the newest one is complete. The newest and the best one are kept.

    Args:
        output_dir (`str` or `os.PathLike`): Output folder of the run.
        limit (`int`, *optional*): How many to keep; `None` or 0 keeps all.
        newest (`str`): The checkpoint just written.
        best (`str`, *optional*): The checkpoint of the best model so far.
    """
    if not limit or limit < 0:
        return
    kept = {Path(path).resolve() for path in (newest, best) if path}
    found = {step: path for step, path in checkpoints(output_dir).items() if was_begun_by_us(path)}
    others = [path for path in found.values() if path.resolve() not in kept]
    for path in others[: max(0, len(found) - max(limit, len(kept)))]:
        remove_checkpoint(path)


def refuse_damaged(folder: str) -> None:
    """
    Raises:
        `InputError`: naming the file of a checkpoint that has changed since it was saved.
    """
    damage = find_damage(folder)
    if damage:
        raise InputError(
            f"{folder} cannot be resumed from: {damage}. Name another checkpoint-N folder, or use "
            "`--resume_from_checkpoint auto`, which finds the newest complete one."
        )


def _fingerprints(paths: list[Path], to_disk: bool = False) -> list[dict[str, int | str]]:
    """Size and hash of each file; hashing releases the GIL, so several files are read at a time."""
    total = sum(path.stat().st_size for path in paths)
    with (
        ThreadPoolExecutor(4) as pool,
        tqdm(
            total=total, unit="B", unit_scale=True, desc="Checking files", leave=False, delay=5, disable=no_bar()
        ) as bar,
    ):

        def fingerprint(path: Path) -> dict[str, int | str]:
            digest, size = xxhash.xxh3_128(), 0
            with open(path, "rb") as stream:
                while block := stream.read(BLOCK):
                    digest.update(block)
                    size += len(block)
                    bar.update(len(block))
                if to_disk:
                    os.fsync(stream.fileno())
            return {"size": size, "xxh3_128": digest.hexdigest()}

        return list(pool.map(fingerprint, paths))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some network file systems do not support it
    finally:
        os.close(descriptor)
