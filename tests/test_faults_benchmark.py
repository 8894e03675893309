"""Every command and recipe is attacked, and the attacking code counts, raises and reports as documented."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from rm_toolkit.cli import COMMANDS


ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


def test_every_command_and_recipe_has_its_attacks(tmp_path):
    from attacks.scenarios import Attacked

    found = {scenario.command for scenario in Attacked(tmp_path, None, "http://127.0.0.1:9/v1").scenarios()}
    assert found == {*COMMANDS, *(path.name for path in (ROOT / "recipes").glob("*.py"))}


HOOKED = """
import sys
from attacks.hook import Hook
place = sys.argv[1]
Hook([place + "/in"], at=2, error="ENOSPC", counted=place + "/log").install()
open(place + "/out.txt", "w").close()
open(place + "/in-1.txt", "w").write("x")
open(place + "/in-1.txt").read()
try:
    open(place + "/in-2.txt", "w")
except OSError as error:
    print(error.errno, error.filename)
"""


def test_a_change_of_the_disk_fails_at_the_number_that_is_named(tmp_path):
    from attacks.hook import read_changes

    environment = os.environ | {"PYTHONPATH": str(ROOT / "benchmarks")}
    printed = subprocess.run(
        [sys.executable, "-c", HOOKED, str(tmp_path)], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert printed.split() == [str(errno.ENOSPC), f"{tmp_path}/in-2.txt"]
    assert read_changes(tmp_path / "log") == [("open", f"{tmp_path}/in-{number}.txt") for number in (1, 2)]


def test_what_does_not_hold_is_seen(tmp_path):
    from attacks.judging import faults, lost, tree
    from attacks.runner import Ended
    from attacks.scenarios import Attacked, Scenario

    attacked = Attacked(tmp_path, None, "")
    scenario = Scenario("x", ["rm-toolkit", "x"], "out", kept=("kept/*",))
    before = tree(attacked.area)
    good = Ended(2, "", "error: /a: the disk is full. Make room\n", 1.0)
    assert faults(attacked, scenario, good, before, (2,)) == []
    (attacked.area / ".saving-out-1").mkdir()
    (attacked.area / "kept").mkdir()
    (attacked.area / "kept" / "y").write_text("")
    bad = Ended(1, "", "Traceback (most recent call last):\n", 1.0, left=["worker"])
    found = " ".join(faults(attacked, scenario, bad, before, (2,)))
    for part in ("exit code 1", "Traceback", "processes are left", "litter: ['.saving-out-1']"):
        assert part in found
    assert lost({"a": b"1", "b": b"2"}, {"b": b"3"}) == ["gone: ['a']", "changed: ['b']"]


def test_a_stopped_command_has_its_earlier_output_or_the_whole_new_one(tmp_path):
    from attacks.judging import tree
    from attacks.runner import Ended
    from attacks.scenarios import Attacked, Scenario
    from attacks.signals import _judge

    attacked, scenario = Attacked(tmp_path, None, ""), Scenario("x", ["rm-toolkit", "x"], "out")
    pages = [attacked.area / name for name in ("one.html", "two.html")]

    def write(*texts):
        for page, text in zip(pages, texts):
            page.write_text(text)
        return tree(attacked.area)

    before, new = write("old", "old"), write("new", "new")
    for texts, code, said, wrong in (
        (("old", "old"), 143, "stopped by SIGTERM.", ""),
        (("new", "new"), 143, "stopped by SIGTERM.", ""),
        (("new", "old"), 143, "stopped by SIGTERM.", "changed: ['one.html']"),
        (("new", "new"), 143, "", "0 lines"),
        (("new", "new"), 0, "", ""),
        (("new", "new"), 0, "Exception ignored in atexit", "Exception ignored"),
    ):
        write(*texts)
        ended = Ended(code, "", said, 1.0)
        started = types.SimpleNamespace(wait=lambda ended=ended: ended)
        found = " ".join(_judge(attacked, scenario, before, new, started, None, "in the end", "SIGTERM").wrong)
        assert wrong in found and bool(wrong) == bool(found), (texts, code, found)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["disks", "signals", "endpoints"])
def test_every_attack_is_held(kind):
    command = [sys.executable, str(ROOT / "benchmarks" / "faults.py"), kind]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-2000:]
