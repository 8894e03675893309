"""Disks that are full, read-only, not ours, or over quota, while every command and recipe writes."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attacks.hook import read_changes
from attacks.judging import faults, last_words, tree
from attacks.scenarios import Attacked, Scenario


PAGE = 4096
PAGES = (0, 8, 64, 400, 2500)
INODES = (0, 2, 8)
ROOMY = "size=2g,nr_inodes=100000"
REMEDIES = (
    "Make room",
    "Name ",
    "Change its rights",
    "Take another",
    "Use another",
    "name a",
    "name another",
    "Pass ",
)
# Error -> how far into the work it comes, from the first change to the last.
INJECTED = {"ENOSPC": (0.0, 0.5, 1.0), "EDQUOT": (0.4, 0.9), "EROFS": (0.6,), "EACCES": (0.2,)}


@dataclass
class Row:
    """One attack: what was done, and which checks failed."""

    kind: str
    scenario: str
    what: str
    wrong: list[str]
    said: str = ""


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A file system in memory at a folder, where one may be mounted; gives whether there is."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", ROOMY, "attacks", str(folder)], capture_output=True)
    if mounted.returncode:
        yield False
        return
    try:
        yield True
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    """Changes the size or the permissions of a mounted disk."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True, capture_output=True)


def leave(folder: Path, *, pages: int | None = None, inodes: int | None = None) -> None:
    """Leaves this many pages or files free on a mounted disk."""
    seen = os.statvfs(folder)
    used, files = (seen.f_blocks - seen.f_bfree) * seen.f_frsize, seen.f_files - seen.f_ffree
    # A size of 0 means no limit: one page is the least.
    size = max(used + (pages or 0) * PAGE, PAGE) if pages is not None else 2 << 30
    remount(folder, f"size={size},nr_inodes={files + inodes if inodes is not None else 100000}")


def full_disks(attacked: Attacked, scenario: Scenario) -> Iterator[Row]:
    """Gives more and more pages, then files, until the command has enough."""
    for kind, rooms in (("pages", PAGES), ("inodes", INODES)):
        for room in rooms:
            with small_disk(attacked.area) as mounted:
                if not mounted:
                    return
                attacked.clear(scenario)
                before = tree(attacked.area)
                leave(attacked.area, **{kind: room})
                row, code = attack(attacked, scenario, before, f"full disk ({kind})", f"room for {room} {kind}")
                remount(attacked.area, ROOMY)
                if code and not row.wrong:
                    row.wrong += goes_on(attacked, scenario)
            if not code:
                break
            yield row


def read_only(attacked: Attacked, scenario: Scenario) -> Iterator[Row]:
    """A file system that may only be read."""
    with small_disk(attacked.area) as mounted:
        if mounted and scenario.target is not None:
            attacked.clear(scenario)
            before = tree(attacked.area)
            remount(attacked.area, f"{ROOMY},ro")
            yield attack(attacked, scenario, before, "read-only", "the whole area")[0]


def failing_changes(attacked: Attacked, scenario: Scenario) -> Iterator[Row]:
    """Every change from the n-th on fails as on such a disk: with n early, in the middle, and last."""
    folders = [f"{attacked.area}/"]
    attacked.clear(scenario)
    counted = attacked.work / "counted"
    ended = attacked.runner.run(scenario.argv, {"folders": folders, "counted": str(counted)}, **attacked.env)
    changes = read_changes(counted)
    if ended.code or not changes:
        return
    for error, shares in INJECTED.items():
        for share in shares:
            at = 1 + round(share * (len(changes) - 1))
            attacked.clear(scenario)
            before = tree(attacked.area)
            event, path = changes[at - 1]
            hook = {"folders": folders, "at": at, "error": error}
            what = f"change {at} of {len(changes)} ({event} {Path(path).name})"
            row, code = attack(attacked, scenario, before, error, what, hook)
            if not code and at < len(changes) and not harmless(event, path):
                row.wrong.append("exit code 0")
            yield row


def harmless(event: str, path: str) -> bool:
    """Whether a change may fail without failing the command: caches."""
    return "/cache/" in path or "/tmp/" in path or event == "os.fsync"


def attack(
    attacked: Attacked,
    scenario: Scenario,
    before: dict[str, bytes],
    kind: str,
    what: str,
    hook: dict[str, Any] | None = None,
) -> tuple[Row, int]:
    """Runs the command and judges how it ended."""
    ended = attacked.runner.run(scenario.argv, hook, **attacked.env)
    said = " ".join(last_words(ended))
    wrong = faults(attacked, scenario, ended, before, (2,)) if ended.code else []
    if ended.code == 2 and str(attacked.area) not in said:
        wrong.append("no path is named")
    if ended.code == 2 and not any(remedy in said for remedy in REMEDIES):
        wrong.append("no remedy is named")
    return Row(kind, scenario.name, what, wrong, said or (ended.err or ended.out)[-1500:]), ended.code


def goes_on(attacked: Attacked, scenario: Scenario) -> list[str]:
    """With space again, the command must do its work."""
    ended = attacked.runner.run(scenario.resumes or scenario.argv, **attacked.env)
    return [f"with room again it ended with {ended.code}: {' '.join(last_words(ended))}"] if ended.code else []
