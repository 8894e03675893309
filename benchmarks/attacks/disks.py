"""Attacks every command and recipe while it writes, with a disk that is full, read-only, forbidden or over quota."""

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
# Error -> at which of the changes it begins, as a share of their number.
INJECTED = {"ENOSPC": (0.0, 0.5, 1.0), "EDQUOT": (0.4, 0.9), "EROFS": (0.6,), "EACCES": (0.2,)}


@dataclass
class Row:
    """The result of an attack: what was done, which checks failed, and what the command printed."""

    kind: str
    scenario: str
    what: str
    wrong: list[str]
    said: str = ""


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Mounts a file system in memory at a folder for the block; yields whether this was permitted."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", ROOMY, "attacks", str(folder)], capture_output=True)
    if mounted.returncode:
        yield False
        return
    try:
        yield True
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def remount(folder: Path, options: str) -> None:
    """Changes the size or the permissions of a mounted file system."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True, capture_output=True)


def leave(folder: Path, *, pages: int | None = None, inodes: int | None = None) -> None:
    """Resizes a mounted file system so that this many pages or inodes are free."""
    seen = os.statvfs(folder)
    used, files = (seen.f_blocks - seen.f_bfree) * seen.f_frsize, seen.f_files - seen.f_ffree
    # A size of 0 would mean no limit, so use at least one page.
    size = max(used + (pages or 0) * PAGE, PAGE) if pages is not None else 2 << 30
    remount(folder, f"size={size},nr_inodes={files + inodes if inodes is not None else 100000}")


def full_disks(attacked: Attacked, scenario: Scenario) -> Iterator[Row]:
    """Leaves more and more free pages, then inodes, until the command has enough."""
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
    """Remounts the area read-only."""
    with small_disk(attacked.area) as mounted:
        if mounted and scenario.target is not None:
            attacked.clear(scenario)
            before = tree(attacked.area)
            remount(attacked.area, f"{ROOMY},ro")
            yield attack(attacked, scenario, before, "read-only", "the whole area")[0]


def failing_changes(attacked: Attacked, scenario: Scenario) -> Iterator[Row]:
    """Lets every change from the n-th on fail with each error, for several n from early to last."""
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
    """Whether the command may succeed although this change fails: caches, temporary files and `fsync`."""
    return "/cache/" in path or "/tmp/" in path or event == "os.fsync"


def attack(
    attacked: Attacked,
    scenario: Scenario,
    before: dict[str, bytes],
    kind: str,
    what: str,
    hook: dict[str, Any] | None = None,
) -> tuple[Row, int]:
    """Runs the command; returns the judged result and the exit code."""
    ended = attacked.runner.run(scenario.argv, hook, **attacked.env)
    said = " ".join(last_words(ended))
    wrong = faults(attacked, scenario, ended, before, (2,)) if ended.code else []
    if ended.code == 2 and str(attacked.area) not in said:
        wrong.append("no path is named")
    if ended.code == 2 and not any(remedy in said for remedy in REMEDIES):
        wrong.append("no remedy is named")
    return Row(kind, scenario.name, what, wrong, said or (ended.err or ended.out)[-1500:]), ended.code


def goes_on(attacked: Attacked, scenario: Scenario) -> list[str]:
    """Checks that the command works once there is space again; returns what went wrong, if anything."""
    ended = attacked.runner.run(scenario.resumes or scenario.argv, **attacked.env)
    return [f"with free space again, it ended with {ended.code}: {' '.join(last_words(ended))}"] if ended.code else []
