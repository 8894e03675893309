"""Judges how an attacked command ended: one line, the right exit code, no lost data, no stray files."""

from __future__ import annotations

import fnmatch
import os
from pathlib import Path

from attacks.runner import Ended
from attacks.scenarios import Attacked, Scenario


NEVER_SAID = ("Traceback (most recent call last)", "Exception ignored", "terminate called", "(unexpected)", "leaked")
TEMPORARY = (".saving-", ".removing-", ".rm_toolkit.lock", "incomplete", "tmp")


def tree(folder: Path) -> dict[str, bytes]:
    """Every path below a folder, with its content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = b"-> " + os.readlink(path).encode()
        else:
            found[name] = path.read_bytes() if path.is_file() else b"/"  # a folder, or a socket
    return found


def faults(
    attacked: Attacked, scenario: Scenario, ended: Ended, before: dict[str, bytes], codes: tuple[int, ...]
) -> list[str]:
    """
    Lists what is wrong with the end of an attacked command.

    Args:
        attacked (`Attacked`): Has the area that the command wrote into.
        scenario (`Scenario`): The command.
        ended (`Ended`): How it ended.
        before (`dict[str, bytes]`): [`tree`] of the area before it started.
        codes (`tuple[int, ...]`): Allowed exit codes.
    """
    found = []
    if ended.code not in codes:
        found.append(f"exit code {ended.code} instead of {' or '.join(map(str, codes))}")
    found += never_said(ended)
    said = last_words(ended)
    if len(said) != 1 and ended.code in (2, 130, 143):
        found.append(f"{len(said)} lines on how it ended instead of one: {said[:3]}")
    if ended.left:
        found.append(f"processes are left: {ended.left}")
    kept = {name: content for name, content in before.items() if not fnmatch_any(name, scenario.kept)}
    return found + lost(kept, tree(attacked.area)) + litter(attacked, scenario, before)


def never_said(ended: Ended) -> list[str]:
    """Lists printed phrases that no command may print, however it ends."""
    return [f"it prints '{words}'" for words in NEVER_SAID if words in ended.out + ended.err]


def changed(before: dict[str, bytes], after: dict[str, bytes]) -> set[str]:
    """Paths of outputs (not caches or temporary files) that are new, gone or different."""
    names = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    return {name for name in names if name.split("/")[0] not in ("cache", "tmp")}


def fnmatch_any(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether a name matches one of the patterns."""
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def last_words(ended: Ended) -> list[str]:
    """The printed lines in which a command says how it ended."""
    lines = [line.strip() for line in (ended.out + "\n" + ended.err).replace("\r", "\n").splitlines()]
    return [line for line in lines if line.startswith(("error: ", "stopped by ", "Stopped by "))]


def lost(before: dict[str, bytes], after: dict[str, bytes]) -> list[str]:
    """Lists files that existed before and are now missing or changed."""
    gone = sorted(name for name in before if name not in after)
    changed = sorted(name for name in before if name in after and before[name] != after[name])
    return [f"gone: {gone[:3]}"] * bool(gone) + [f"changed: {changed[:3]}"] * bool(changed)


def litter(attacked: Attacked, scenario: Scenario, before: dict[str, bytes]) -> list[str]:
    """Lists stray files that the command left in the area."""
    left = []
    for name in tree(attacked.area):
        if name in before or name in ("cache", "tmp"):
            continue
        if name.startswith("cache/") and name.endswith(".lock"):  # the datasets library keeps its own
            continue
        own = fnmatch_any(name, scenario.kept)
        parts = name.split("/")
        if (
            any(
                part.startswith(TEMPORARY[:2]) or "incomplete" in part or part.endswith(TEMPORARY[2]) for part in parts
            )
            or parts[0] == "tmp"
            or (parts[0] == "cache" and parts[-1].startswith("tmp"))
            or (
                parts[0] != "cache"
                and not own
                and not any(pattern.startswith(f"{name}/") for pattern in scenario.kept)
            )
        ):
            left.append(name)
    return [f"litter: {left[:4]}"] if left else []
