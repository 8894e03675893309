"""However a command ends, it gives one line and an exit code, and leaks nothing."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path

import pytest

from rm_toolkit import cli
from rm_toolkit.errors import InputError
from rm_toolkit.output.ending import ending_of, hint_if_stopped, stopped
from rm_toolkit.output.event_loop import run_async
from rm_toolkit.output.places import about
from rm_toolkit.output.stop_signals import Terminated, terminable
from rm_toolkit.training.runtime import run_main


TOKEN = "hf_abcdefghijklmnop"


def raised(error, cause=None):
    try:
        raise error from cause
    except BaseException as found:
        return found


def disk(number, path="/data/out.arrow"):
    return OSError(number, os.strerror(number), path)


STORAGE = {
    "full": (disk(errno.ENOSPC), "/data/out.arrow: the disk is full. Make room"),
    "quota": (disk(errno.EDQUOT), "/data/out.arrow: your quota on this disk is used up"),
    "read-only": (disk(errno.EROFS), "/data/out.arrow: its file system is read-only"),
    "no right": (disk(errno.EACCES), "/data/out.arrow: permission denied. Change its rights"),
    "long name": (disk(errno.ENAMETOOLONG), "/data/out.arrow: its name is too long"),
    "behind another": (raised(RuntimeError("map failed"), disk(errno.ENOSPC)), "/data/out.arrow: the disk is full"),
    "no path": (OSError(errno.ENOSPC, "No space left on device"), "the disk is full (OSError: [Errno 28] No space"),
    "of a folder": (shutil.Error([("/from", "/data/to", "[Errno 28] No space left on device")]), "/data/to: the disk is full"),
    "of datasets": (OSError("Not enough disk space. Needed: Unknown size"), "the disk is full (OSError: Not enough"),
    "of a library": (RuntimeError("I/O error on '/data/a.st': No space left on device (os error 28)"), "/data/a.st: the disk"),
}  # fmt: skip


@pytest.mark.parametrize("kind", STORAGE)
def test_a_disk_that_cannot_be_used_is_the_mistake_of_no_program(kind):
    error, said = STORAGE[kind]
    found = ending_of(error)
    assert found.code == 2 and found.message.startswith(f"error: {said}") and "\n" not in found.message


def test_a_mistake_is_said_as_it_is():
    found = ending_of(InputError(f"--token {TOKEN}: not known"))
    assert (found.code, found.message) == (2, "error: --token hf_<hidden>: not known")


def test_a_fault_is_one_line_and_its_traceback_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found = ending_of(raised(KeyError(f"two\nlines {TOKEN}")))
    (path,) = tmp_path.iterdir()
    assert found.code == 1 and "\n" not in found.message and f"The full traceback is in {path}" in found.message
    text = path.read_text()
    assert "Traceback" in text and "in raised" in text and TOKEN not in text + found.message
    assert path.stat().st_mode & 0o077 == 0


def test_where_no_file_can_be_written_the_traceback_is_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    found = ending_of(raised(KeyError("x")))
    assert "The full traceback is in the lines above" in found.message and "Traceback" in capsys.readouterr().err


def test_a_stopped_command_says_how_to_go_on():
    for error, code, name in ((KeyboardInterrupt(), 130, "Ctrl-C"), (Terminated(), 143, "SIGTERM")):
        assert (ending_of(error).code, ending_of(error).message) == (
            code,
            f"stopped by {name}. No partial output is left.",
        )
        with pytest.raises(type(error)) as caught, hint_if_stopped("It goes on."):
            raise error
        assert ending_of(caught.value).message == f"stopped by {name}. It goes on."
    assert ending_of(stopped(signal.SIGINT, None)).message is None


def test_sigterm_is_raised_within_and_ends_the_process_outside(monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated), terminable():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before
    monkeypatch.setenv("WORLD_SIZE", "2")
    with terminable():
        assert signal.getsignal(signal.SIGTERM) == before


def test_an_error_that_a_signal_has_led_to_counts_as_the_signal():
    with pytest.raises(Terminated), terminable():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt as error:
            raise ImportError("numpy failed") from error
    with pytest.raises(ImportError), terminable():
        raise ImportError


class Interrupted:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_that_python_cannot_raise_comes_again(capsys):
    with pytest.raises(KeyboardInterrupt), terminable():
        Interrupted()
        time.sleep(5)
    assert capsys.readouterr().err == ""


def test_the_same_signal_twice_does_not_disturb_what_is_cleaned_up():
    cleaned = []
    with pytest.raises(KeyboardInterrupt), terminable():
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            os.kill(os.getpid(), signal.SIGINT)  # once from the terminal and once from a launcher
            cleaned.append(True)
    assert cleaned


def test_what_ctrl_c_is_kept_from_does_not_get_it():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as `nohup` does
    try:
        with terminable():
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_was_being_written_is_named():
    nameless = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(OSError, match="No space") as caught, about("/data/outer"), about("/data/out.arrow"):
        raise nameless
    assert ending_of(caught.value).message.startswith("error: /data/out.arrow: the disk is full. Make room")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_standard_output_is_one_line():
    command = (
        "import sys, types\nfrom rm_toolkit import cli\n"
        "work = types.SimpleNamespace(add_arguments=lambda parser: None, run=lambda args: print('a result'))\n"
        "sys.modules['rm_toolkit.cli.inspect'] = work\nsys.exit(cli.main(['inspect']))"
    )
    with open("/dev/full", "wb") as full:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        ended = subprocess.run(
            [sys.executable, "-c", command], stdout=full, stderr=subprocess.PIPE, text=True, env=environment
        )
    assert ended.returncode == 2 and ended.stderr.startswith("error: standard output: the disk is full.")
    assert ended.stderr.count("\n") == 1


def test_a_recipe_is_one_line_from_its_first_import_on():
    """The handler of Ctrl-C is set before anything that is slow to import."""
    heavy = "import sys, rm_toolkit.training.runtime, rm_toolkit.cli\nsys.exit(bool({'torch', 'transformers'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", heavy]).returncode == 0


def test_a_process_that_has_lost_another_says_so(monkeypatch):
    lost = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:53214")
    assert "(unexpected)" in ending_of(lost).message
    monkeypatch.setenv("WORLD_SIZE", "2")
    found = ending_of(raised(ValueError("step 3"), lost))
    assert found.code == 1 and found.message.startswith("error: another process of this run has ended")
    assert "(unexpected)" in ending_of(RuntimeError("shapes differ")).message


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_event_loop_is_left_where_it_waits(number):
    cleaned = []

    async def work():
        try:
            os.kill(os.getpid(), number)
            cleaned.append("not in the middle")
            await asyncio.sleep(5)
        finally:
            await asyncio.sleep(0)
            cleaned.append("in the end")

    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt) as caught:
        run_async(work())
    assert isinstance(caught.value, Terminated) == (number == signal.SIGTERM)
    assert cleaned == ["not in the middle", "in the end"] and signal.getsignal(number) is before
    assert run_async(asyncio.sleep(0, "done")) == "done"


def test_a_forked_process_ends_as_always():
    with terminable():
        child = os.fork()
        if child == 0:
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGTERM


WORK = {
    "command": "from rm_toolkit import cli\nsys.argv[1:] = []\nwork = cli.main",
    "recipe": "from rm_toolkit.training import runtime\nruntime.prepare_libraries = lambda: None\n"
    "work = runtime.run_main(eval('lambda: print(1)'))",
}
LATE = """
import atexit, os, signal, sys, time
from rm_toolkit.output import stop_signals
stop_signals.SECONDS_OF_ONE_SIGNAL = 0.1
number = signal.Signals[sys.argv[1]]
atexit.register(os.kill, os.getpid(), number)  # what is registered first is called last
{work}
code = work()
os.kill(os.getpid(), number)
atexit.register(os.kill, os.getpid(), number)
time.sleep({hangs})
os.kill(os.getpid(), number)
sys.exit(code)
"""


@pytest.mark.parametrize("kind", WORK)
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_after_the_work_changes_nothing(kind, name):
    for hangs, codes in ((0, (0,)), (0.15, (130, 143))):  # if the exit hangs, the signal may end it
        command = [sys.executable, "-c", LATE.format(work=WORK[kind], hangs=hangs), name]
        ended = subprocess.run(command, capture_output=True, text=True)
        assert ended.returncode in codes and ended.stderr == "", ended.stderr


ENDINGS = {
    "mistake": (InputError("no such file"), 2, "error: no such file"),
    "disk": (disk(errno.ENOSPC), 2, "the disk is full"),
    "fault": (ZeroDivisionError("division"), 1, "error: ZeroDivisionError: division (unexpected)"),
    "Ctrl-C": (KeyboardInterrupt(), 130, "stopped by Ctrl-C"),
    "SIGTERM": (Terminated(), 143, "stopped by SIGTERM"),
}


def raise_(error):
    raise error


@pytest.mark.parametrize("kind", ENDINGS)
def test_commands_and_recipes_end_alike(kind, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    error, code, said = ENDINGS[kind]
    command = types.SimpleNamespace(add_arguments=lambda parser: None, run=lambda args: raise_(error))
    monkeypatch.setitem(sys.modules, "rm_toolkit.cli.inspect", command)
    assert cli.main(["inspect"]) == code
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and said in printed
    with pytest.raises(SystemExit) as ended:
        run_main(lambda: raise_(error))()
    printed = capsys.readouterr().err
    assert ended.value.code == code and printed.count("\n") == 1 and said in printed
    assert len(list(Path(tmp_path).iterdir())) == (2 if kind == "fault" else 0)
