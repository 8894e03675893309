"""Half-written files of killed commands are removed by the next start; files that are being written stay."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from rm_toolkit.output import folders, process_files, temporary
from rm_toolkit.output.folders import replaced_file, replaced_folder, written_whole
from rm_toolkit.output.lock import WriterLock
from rm_toolkit.output.temporary import remove_left_in, scratch_folder, temporary_folder, temporary_name


WRITE = """
import sys
from pathlib import Path
from rm_toolkit.output.folders import replaced_file, replaced_folder
from rm_toolkit.output.temporary import scratch_folder
place = Path(sys.argv[1])
with replaced_file(place / "a.json") as file, replaced_folder(place / "b") as new, scratch_folder() as scratch:
    for path in (new / "x", scratch / "y"):
        path.write_text("half")
    print("writing", flush=True)
    sys.stdin.readline()
"""


@contextlib.contextmanager
def writer(place):
    """A process in the middle of writing a file, a folder and a scratch folder."""
    command = [sys.executable, "-c", WRITE, str(place)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | {"TMPDIR": str(place)}
    )
    process.stdout.readline()
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_next_start_removes_what_a_killed_one_has_left(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with writer(tmp_path) as process:
        assert len(names(tmp_path)) == 3
        for name in ("a.json", "b"):
            WriterLock(tmp_path / name).release()
        with scratch_folder():
            pass
        assert len(names(tmp_path)) == 3  # they are being written
        process.send_signal(signal.SIGKILL)
        process.wait()
        WriterLock(tmp_path / "other").release()
        assert len(names(tmp_path)) == 3
        for name in ("a.json", "b"):
            WriterLock(tmp_path / name).release()
        with scratch_folder():
            pass
        assert names(tmp_path) == []


def test_files_that_belong_to_an_output_and_files_in_a_folder_go_too(tmp_path):
    for path in (tmp_path / "a.report.json", tmp_path / "run" / "x.json", tmp_path / "tokens-1.npz"):
        path.parent.mkdir(exist_ok=True)
        temporary_name(path).write_text("half")
    WriterLock(tmp_path / "a.json").release()
    WriterLock(tmp_path / "run").release()
    remove_left_in(tmp_path, "tokens-")
    assert names(tmp_path) == ["run"] and names(tmp_path / "run") == []


def test_another_computer_s_files_go_when_they_are_old(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(temporary, "machine", lambda: "another")
        left = temporary_name(tmp_path / "a.json")
    left.write_text("half")
    earlier = tmp_path / ".saving-a.json-123-0123abcd"  # as versions up to 0.5.0 named them
    earlier.write_text("half")
    foreign = tmp_path / ".saving-a.json-notes"
    foreign.write_text("of somebody else")
    WriterLock(tmp_path / "a.json").release()
    assert left.exists() and earlier.exists()
    for path in (left, earlier, foreign):
        os.utime(path, (time.time() - 700,) * 2)
    WriterLock(tmp_path / "a.json").release()
    assert names(tmp_path) == [foreign.name]


def test_an_earlier_output_that_could_not_be_put_back_comes_back(tmp_path, monkeypatch):
    output = tmp_path / "out"
    with written_whole(output) as new:
        (new / "mark").write_text("first")
    rename, broken = Path.rename, []

    def fail(self, target):
        if self.name == "new" or broken:
            broken.append(self)
            raise OSError(errno.EROFS, "read-only")
        return rename(self, target)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="read-only"):
        patch.setattr(folders, "_exchange", lambda one, other: False)
        patch.setattr(Path, "rename", fail)
        with replaced_folder(output) as new:
            (new / "mark").write_text("second")
    assert not output.exists()
    WriterLock(output).release()
    assert (output / "mark").read_text() == "first" and names(tmp_path) == ["out"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="renameat2 is Linux's")
def test_a_folder_is_exchanged_at_once(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(Path, "rename", lambda *_: pytest.fail("two renames"))
    with replaced_folder(tmp_path / "out") as new:
        (new / "mark").write_text("second")
    assert (tmp_path / "out" / "mark").read_text() == "second" and names(tmp_path) == ["out"]


def test_temporary_files_of_libraries_go_with_their_process(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    child = os.fork()
    if child == 0:
        with process_files.named_temporary_files():
            os.close(tempfile.mkstemp()[0])
            tempfile.mkdtemp()
            os._exit(0)  # as if it had been killed
    os.waitpid(child, 0)
    (tmp_path / "tmpabcdefgh").write_text("of another program")
    assert len(names(tmp_path)) == 3
    with process_files.named_temporary_files():
        assert names(tmp_path) == ["tmpabcdefgh"]
        own = tempfile.mkdtemp()
        process_files.remove_left_by_processes(tmp_path)
        assert len(names(tmp_path)) == 2  # its process is alive
        process_files.remove_own_files()
        assert not os.path.exists(own)
    assert Path(tempfile.mkdtemp()).name.startswith("tmp") and process_files.START not in tempfile.template


def test_a_temporary_name_is_never_too_long(tmp_path):
    with replaced_file(tmp_path / ("n" * 250)) as file:
        file.write("x")
    with temporary_folder(tmp_path / ("n" * 255)):
        pass
    assert names(tmp_path) == ["n" * 250]
