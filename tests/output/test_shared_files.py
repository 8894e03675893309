"""Files that another computer writes are waited for, up to a time limit."""

from __future__ import annotations

import os
import threading
import time

import pytest

from rm_toolkit.errors import InputError
from rm_toolkit.output import shared_files
from rm_toolkit.output.shared_files import await_files
from rm_toolkit.training import checkpoints as checkpoints_module
from rm_toolkit.training.checkpoints import Checkpoints
from rm_toolkit.training.manifest import find_damage, read_manifest


def late(path, seconds=0.15):
    """Puts a file or a folder's content in place a moment later, as a rename becomes visible on another computer."""
    there = path.with_name(path.name + ".there")
    os.rename(path, there)
    timer = threading.Timer(seconds, os.rename, (there, path))
    timer.start()
    return timer


def test_a_file_that_is_seen_late_is_waited_for(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("{}")
    timer, begin = late(path), time.monotonic()
    await_files([path])
    assert path.exists() and time.monotonic() - begin >= 0.1
    timer.join()
    await_files([path])


def test_one_that_is_never_seen_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_files, "SECONDS_TO_SEE", 0.1)
    with pytest.raises(
        InputError, match=r"b\.json was written by another process .* one on a file system that they share"
    ):
        await_files([tmp_path, tmp_path / "b.json"])


def test_a_checkpoint_is_sealed_with_what_other_machines_have_written(tmp_path, monkeypatch):
    saver = Checkpoints(str(tmp_path), num_processes=2)
    folder = saver.begin(3)
    folder.mkdir()
    for name in ("model.safetensors", "rng_state_1.pth"):
        (folder / name).write_bytes(b"x")
    # Sent by `gather_object` from the process that sees its own file at once.
    monkeypatch.setattr(checkpoints_module, "gather_object", lambda names: [*names, "rng_state_1.pth"])
    timer = late(folder / "rng_state_1.pth")
    names = [name for name in saver.seen_by_all(3) if not name.endswith(".there")]
    saver.seal(3, names)
    timer.join()
    assert set(read_manifest(folder)["files"]) == {"model.safetensors", "rng_state_1.pth"}
    assert find_damage(folder) is None
    own = Checkpoints(str(tmp_path), num_processes=2, on_each_machine=True)
    assert own.seen_by_all(3) == []
