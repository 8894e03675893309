"""One writer per output: a second one is told who holds the lock, whatever happened to the first."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rm_toolkit.cli import main
from rm_toolkit.errors import InputError
from rm_toolkit.output import folders
from rm_toolkit.output import holder as holder_module
from rm_toolkit.output import lock as lock_module
from rm_toolkit.output.folders import written_whole
from rm_toolkit.output.holder import living_holder, read_holder
from rm_toolkit.output.lock import OutputHeld, WriterLock, is_held, lock_path, release_all


ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from rm_toolkit.output.lock import WriterLock
lock = WriterLock(sys.argv[1])
print("held", flush=True)
sys.stdin.readline()
"""


@contextlib.contextmanager
def another_process(output):
    """Locks the output in another process."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(output)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def of_another_host(path, *, seconds_old, **changes):
    values = {"kind": "rm_toolkit lock", "host": "node7", "machine": "another", "pid": 12, "command": "grft.py"}
    path.write_text(json.dumps({**values, "since": "2026-11-26 21:00:00+00:00", **changes}))
    os.utime(path, (time.time() - seconds_old,) * 2)


def test_the_second_process_is_told_who_holds_the_output(tmp_path):
    with another_process(tmp_path / "run") as first:
        with pytest.raises(OutputHeld) as caught:
            WriterLock(tmp_path / "run")
        assert is_held(tmp_path / "run") and not is_held(tmp_path / "run2")
        text = str(caught.value)
        assert text.startswith(f"{tmp_path}/run is being written by process {first.pid} on host {os.uname().nodename}")
        assert "since 20" in text and "Wait for it, or end it." in text
        first.communicate("\n")
    assert list(tmp_path.iterdir()) == [], "the holder removes its lock file and the folders made for it"
    with WriterLock(tmp_path / "run"):
        pass


def test_names_of_one_folder_are_one_output(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path / "real")
    paths = {lock_path(name) for name in (tmp_path / "real", tmp_path / "link", ".", "../x/../real", "../link/")}
    assert paths == {tmp_path / ".real.rm_toolkit.lock"}


def test_a_killed_process_holds_nothing(tmp_path, capsys):
    with another_process(tmp_path / "run") as first:
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        assert read_holder(lock_path(tmp_path / "run")).pid == first.pid
        with WriterLock(tmp_path / "run"):
            assert read_holder(lock_path(tmp_path / "run")).pid == os.getpid()
    assert capsys.readouterr() == ("", "")


def test_a_process_may_take_its_output_again_but_not_write_it_twice(tmp_path):
    with WriterLock(tmp_path / "out") as outer:
        with WriterLock(tmp_path / "out", alone=True):
            with pytest.raises(OutputHeld, match="is already being written by this process"):
                WriterLock(tmp_path / "out", alone=True)
        with WriterLock(tmp_path / "out", alone=True):
            pass
        outer.release()
        outer.release()
        assert not lock_path(tmp_path / "out").exists()


def test_waiting_ends_when_the_holder_does(tmp_path):
    with another_process(tmp_path / "run") as first:
        with pytest.raises(OutputHeld):
            WriterLock(tmp_path / "run", wait=0.3)
        first.stdin.write("\n")
        first.stdin.flush()
        WriterLock(tmp_path / "run", wait=60).release()


def test_another_host_with_a_sign_of_life_holds_its_output(tmp_path):
    of_another_host(lock_path(tmp_path / "run"), seconds_old=9 * 60)
    before = lock_path(tmp_path / "run").read_bytes()
    with pytest.raises(OutputHeld, match=r"process 12 on host node7 .*sign of life is 5[34]\d s old.*10 minutes"):
        WriterLock(tmp_path / "run")
    assert lock_path(tmp_path / "run").read_bytes() == before, "the holder's file is left as it is"


def test_another_host_without_a_sign_of_life_has_ended(tmp_path, capsys):
    of_another_host(lock_path(tmp_path / "run"), seconds_old=11 * 60)
    with WriterLock(tmp_path / "run"):
        assert read_holder(lock_path(tmp_path / "run")).pid == os.getpid()
    said = capsys.readouterr().out
    assert "process 12 on host node7" in said and "no sign of life for 11 minutes; this run takes over" in said


def test_the_holder_shows_that_it_lives_and_notices_who_takes_over(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(lock_module, "SECONDS_BETWEEN_BEATS", 0.01)
    path = lock_path(tmp_path / "run")

    def wait_for(true):
        for _ in range(500):
            if true():
                return
            time.sleep(0.01)
        raise AssertionError

    with WriterLock(tmp_path / "run"):
        os.utime(path, (0, 0))
        wait_for(lambda: time.time() - path.stat().st_mtime < 60)
        of_another_host(path, seconds_old=0)
        said = []
        wait_for(
            lambda: said.append(capsys.readouterr().out) or "taken over by process 12 on host node7" in "".join(said)
        )
    assert read_holder(path).pid == 12, "the lock file is another's now"


def test_a_child_holds_nothing_and_gives_nothing_back(tmp_path):
    with WriterLock(tmp_path / "run") as lock:
        child = os.fork()
        if child == 0:
            code = 1
            with contextlib.suppress(BaseException):
                lock.release()
                release_all()
                code = 0 if is_held(tmp_path / "run") else 2
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        with another_taker(tmp_path / "run") as code:
            assert code == 2
    assert not lock_path(tmp_path / "run").exists()


@contextlib.contextmanager
def another_taker(output):
    take = "import sys\nfrom rm_toolkit.output.lock import *\ntry: WriterLock(sys.argv[1])\nexcept OutputHeld: sys.exit(2)"
    yield subprocess.run([sys.executable, "-c", take, str(output)], cwd=ROOT).returncode


def test_a_lock_whose_file_was_removed_meanwhile_is_taken_anew(tmp_path, monkeypatch):
    """Between opening and locking, the holder ends and removes the file, and a third process creates a new one."""
    path = lock_path(tmp_path / "run")
    real, calls = lock_module._try_lock, []

    def late(descriptor):
        if not calls:
            calls.append(1)
            path.unlink()
            path.touch()
        return real(descriptor)

    monkeypatch.setattr(lock_module, "_try_lock", late)
    with WriterLock(tmp_path / "run"), another_taker(tmp_path / "run") as code:
        assert read_holder(path).pid == os.getpid() and code == 2


@pytest.fixture
def no_locks(monkeypatch):
    """Simulates a file system without locks."""

    def refuse(*_):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(lock_module.fcntl, "flock", refuse)
    monkeypatch.setattr(lock_module, "SECONDS_TO_SETTLE", 0.0)


PARENT, NOBODY = os.getppid(), 2**22 + 1
HERE = {"machine": holder_module.machine(), "pid_namespace": holder_module.pid_namespace()}
ELSEWHERE = {
    "another computer": {},
    "another computer of the same name": {"host": os.uname().nodename},
    "another container": {**HERE, "pid_namespace": 1},
    "lock file of 0.7.0": {"machine": HERE["machine"]},
}


@pytest.mark.parametrize("living", [True, False])
def test_without_locks_in_the_file_system_the_process_decides(tmp_path, no_locks, living):
    pid = PARENT if living else NOBODY
    of_another_host(lock_path(tmp_path / "run"), seconds_old=(3600 if living else 0), **HERE, pid=pid)
    if living:
        with pytest.raises(OutputHeld, match=rf"process {pid} on host .*Wait for it, or end it\.$"):
            WriterLock(tmp_path / "run")
    else:
        WriterLock(tmp_path / "run").release()


@pytest.mark.parametrize("pid", [PARENT, NOBODY], ids=["number in use here", "number not in use here"])
@pytest.mark.parametrize("where", ELSEWHERE)
def test_a_process_number_of_elsewhere_says_nothing(tmp_path, no_locks, capsys, where, pid):
    """Here it may belong to another process or to none, so only the heartbeat counts."""
    path = lock_path(tmp_path / "run")
    of_another_host(path, seconds_old=60, **{**ELSEWHERE[where], "pid": pid})
    assert living_holder(path)[1] == pytest.approx(60, abs=5)
    with pytest.raises(OutputHeld, match=r"sign of life is [56]\d s old"):
        WriterLock(tmp_path / "run")
    os.utime(path, (time.time() - 11 * 60,) * 2)
    assert living_holder(path) is None
    WriterLock(tmp_path / "run").release()
    assert "no sign of life for 11 minutes; this run takes over" in capsys.readouterr().out


def test_another_computer_of_the_same_name_keeps_its_output_though_its_lock_is_not_seen_here(tmp_path):
    of_another_host(lock_path(tmp_path / "run"), seconds_old=60, host=os.uname().nodename)
    with pytest.raises(OutputHeld, match="sign of life"):
        WriterLock(tmp_path / "run")


def test_a_container_that_was_killed_holds_nothing_where_locks_reach_it(tmp_path, capsys):
    """It is restarted at once, in another namespace of the same computer."""
    of_another_host(lock_path(tmp_path / "run"), seconds_old=1, **{**ELSEWHERE["another container"], "pid": PARENT})
    WriterLock(tmp_path / "run").release()
    assert capsys.readouterr() == ("", "")


def test_a_later_process_of_the_same_number_is_not_the_holder(tmp_path):
    path = lock_path(tmp_path / "run")
    with another_process(tmp_path / "run") as holder:
        written = json.loads(path.read_text())
        assert written["started"] and living_holder(path)[0].pid == holder.pid and living_holder(path)[1] is None
        os.utime(path, (0, 0))
        assert living_holder(path) is not None, "a stopped process gives no sign of life, and is not dead"
        path.write_text(json.dumps({**written, "started": written["started"] - 1}))
        assert living_holder(path) is None
        path.write_text(json.dumps(written))
        holder.kill()
        os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)  # dead, but not yet reaped by its parent
        assert living_holder(path) is None


def test_a_lock_file_of_a_later_version_is_read(tmp_path):
    of_another_host(lock_path(tmp_path / "run"), seconds_old=0, cluster="blue")
    assert read_holder(lock_path(tmp_path / "run")).host == "node7"


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs `unshare`")
def test_a_run_in_a_container_is_seen_from_outside_until_it_gives_no_sign_of_life(tmp_path):
    """In a real namespace, its process id is 1 or so, which is another process outside."""
    command = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("this system lets nobody make a namespace")
    command += [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    path = lock_path(tmp_path / "run")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as inside:
        assert inside.stdout.readline() == "held\n"
        found, age = living_holder(path)
        assert found.is_here and found.is_alive is None and found.pid < 10 and age < 60
        with pytest.raises(OutputHeld, match=f"process {found.pid} on host"):
            WriterLock(tmp_path / "run")
        inside.kill()
        inside.wait()  # before the end of its input could end the inner process
    assert living_holder(path) is not None, "it cannot be known from here yet"
    os.utime(path, (time.time() - 11 * 60,) * 2)
    assert living_holder(path) is None
    WriterLock(tmp_path / "run", wait=30).release()  # the system ends the inner process a moment later


@pytest.mark.parametrize("content", ["my notes\n", "{}", '{"kind": "rm_toolkit lock"}', "[1]"])
def test_a_file_of_that_name_that_is_no_lock_is_left_alone(tmp_path, content):
    lock_path(tmp_path / "run").write_text(content)
    with pytest.raises(InputError, match=r"was not written by rm_toolkit\. Move it away"):
        WriterLock(tmp_path / "run")
    assert lock_path(tmp_path / "run").read_text() == content


@pytest.mark.parametrize("content", [b"", b"\0" * 90])
def test_a_lock_file_without_a_name_is_nobodys(tmp_path, content):
    """As after a power cut."""
    lock_path(tmp_path / "run").write_bytes(content)
    WriterLock(tmp_path / "run").release()
    assert list(tmp_path.iterdir()) == []


def test_an_output_below_a_file_cannot_be_held(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="file is not a writable folder"):
        WriterLock(tmp_path / "file" / "run" / "deeper")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_where_the_folder_above_is_not_ours_the_lock_is_inside(tmp_path):
    (tmp_path / "mount" / "out").mkdir(parents=True)
    (tmp_path / "mount").chmod(0o500)
    with WriterLock(tmp_path / "mount" / "out"):
        assert [path.name for path in (tmp_path / "mount" / "out").iterdir()] == [".rm_toolkit.lock"]
    (tmp_path / "mount").chmod(0o700)


def test_tokens_of_the_command_line_are_not_in_the_lock_file(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/home/me/grft.py", "--hub_token", "hf_abcdefghijklmnop"])
    with WriterLock(tmp_path / "run"):
        assert read_holder(lock_path(tmp_path / "run")).command == "grft.py --hub_token hf_<hidden>"


def test_a_folder_that_another_process_writes_is_not_replaced(tmp_path):
    with written_whole(tmp_path / "report") as new:
        (new / "metrics.json").write_text("first")
    with another_process(tmp_path / "report"), pytest.raises(OutputHeld):
        with written_whole(tmp_path / "report") as new:
            (new / "metrics.json").write_text("second")
    assert (tmp_path / "report" / "metrics.json").read_text() == "first"


def test_a_folder_that_cannot_be_moved_in_place_leaves_the_earlier_one(tmp_path, monkeypatch):
    with written_whole(tmp_path / "report") as new:
        (new / "metrics.json").write_text("first")
    rename = Path.rename

    def fail(self, target):
        if self.name == "new":
            raise OSError(errno.EIO, "no")
        return rename(self, target)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no"):
        patch.setattr(folders, "_exchange", lambda one, other: False)  # as on a system without this call
        patch.setattr(Path, "rename", fail)
        with written_whole(tmp_path / "report") as new:
            (new / "metrics.json").write_text("second")
    assert (tmp_path / "report" / "metrics.json").read_text() == "first"


COMMANDS = {
    "build-data": ["dsp", "--input", "absent.json", "--output"],
    "inspect": ["absent", "--output"],
    "evaluate": ["--model", "absent", "--datasets", "a=absent", "--overwrite", "--output"],
    "merge": ["--general", "absent", "--customized", "absent", "--weight", "0.5", "--overwrite", "--output"],
    "merge --frontier": ["--frontier", "--general", "absent", "--customized", "absent", "--output"],
    "score": ["--model", "absent", "--input", "absent", "--overwrite", "--output"],
    "collect": ["--input", "a", "--domains", "a", "--base-url", "http://a", "--model", "a", "--overwrite", "--output"],
    "build-data --export": ["dsp", "--input", "absent.json", "--export", "text-score"],
}


@pytest.fixture(scope="module")
def held_output(tmp_path_factory):
    output = tmp_path_factory.mktemp("held") / "out.json"
    with another_process(output) as holder:
        yield output, holder


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_told_who_writes_its_output(held_output, command, capsys):
    """Before it reads anything: none of the inputs exist."""
    output, holder = held_output
    assert main([command.split()[0], *COMMANDS[command], str(output)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {output} is being written by process {holder.pid} on host")
    assert [path.name for path in output.parent.iterdir()] == [lock_path(output).name]
