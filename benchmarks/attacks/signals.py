"""
Ctrl-C, SIGTERM and SIGKILL in every command and recipe: while it starts, works, writes, and ends.

A command may be stopped at any moment until its work is done. It then prints one line and exits with 130 or 143. Its
output is still the earlier one, or the complete new one if that was just put in place. Once the work is done, a signal
changes nothing, and the exit code is 0. There is never more than that line: no traceback, no "Exception ignored".
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

from attacks.disks import Row
from attacks.hook import read_changes
from attacks.judging import changed, faults, fnmatch_any, last_words, litter, lost, never_said, tree
from attacks.runner import Started
from attacks.scenarios import Attacked, Scenario


CODES = {"SIGINT": 130, "SIGTERM": 143, "SIGKILL": 137}
SHARES_OF_START = (0.08, 0.4, 0.8)  # when to send a signal, as a share of the time of a whole run (at most 14 s)


def while_starting(
    attacked: Attacked, scenario: Scenario, names: tuple[str, ...] = ("SIGINT", "SIGTERM")
) -> Iterator[Row]:
    """Signals a fresh process while it imports its modules; SIGINT goes to the whole group, as from a terminal."""
    attacked.clear(scenario)
    begin = time.monotonic()
    clean = attacked.runner.spawn(scenario.argv, **attacked.env).wait()
    whole = min(time.monotonic() - begin, 14.0)
    assert clean.code == 0, clean.err[-2000:]
    new = tree(attacked.area)
    for name in names:
        for share in SHARES_OF_START:
            attacked.clear(scenario)
            before = tree(attacked.area)
            started = attacked.runner.spawn(scenario.argv, **attacked.env)
            time.sleep(max(0.2, share * whole))
            yield _judge(attacked, scenario, before, new, started, name, f"{share * whole:.1f} s after its start")


def while_working(
    attacked: Attacked, scenario: Scenario, names: tuple[str, ...] = ("SIGINT", "SIGTERM")
) -> Iterator[Row]:
    """Signals a process that has imported everything, at changes to the disk or, if it makes none, after some time."""
    folders = [f"{attacked.area}/"]
    attacked.clear(scenario)
    counted = attacked.work / "counted"
    started = attacked.runner.fork(scenario.argv, {"folders": folders, "counted": str(counted)}, **attacked.env)
    clean = started.wait()
    if clean.code:
        raise RuntimeError(clean.err[-2000:])
    new = tree(attacked.area)
    changes = read_changes(counted)
    target = [number for number, (_, path) in enumerate(changes, 1) if "/cache/" not in path and "/tmp/" not in path]
    chosen = {len(changes) // 4 + 1, len(changes) // 2 + 1} if changes else set()
    chosen |= {target[len(target) // 2], target[-1]} if target else set()
    for name in names:
        for at in sorted(chosen):
            attacked.clear(scenario)
            before = tree(attacked.area)
            hook = {"folders": folders, "at": at, "signal": name}
            started = attacked.runner.fork(scenario.argv, hook, **attacked.env)
            event, path = changes[at - 1]
            what = f"change {at} of {len(changes)} ({event} {path.rpartition('/')[2]})"
            yield _judge(attacked, scenario, before, new, started, None, what, name)
        for share in () if chosen else (0.1, 0.2, 0.3):
            attacked.clear(scenario)
            before = tree(attacked.area)
            started = attacked.runner.fork(scenario.argv, **attacked.env)
            time.sleep(share * clean.seconds)
            what = f"{share * clean.seconds:.2f} s after its imports"
            yield _judge(attacked, scenario, before, new, started, name, what)
        attacked.clear(scenario)
        before = tree(attacked.area)
        started = attacked.runner.fork(scenario.argv, {"folders": folders, "at_exit": name}, **attacked.env)
        yield _judge(attacked, scenario, before, new, started, None, "as it ends", name)


def killed(attacked: Attacked, scenario: Scenario) -> Iterator[Row]:
    """Kills a process at changes to the disk. The next start must do the work and remove what the killed one left."""
    folders = [f"{attacked.area}/"]
    attacked.clear(scenario)
    counted = attacked.work / "counted"
    clean = attacked.runner.run(scenario.argv, {"folders": folders, "counted": str(counted)}, **attacked.env)
    assert clean.code == 0, clean.err[-2000:]
    changes = read_changes(counted)
    expected = [*tree(attacked.area)]
    for share in (0.1, 0.3, 0.5, 0.7, 0.9, 1.0) if changes else ():
        at = 1 + round(share * (len(changes) - 1))
        attacked.clear(scenario)
        before = tree(attacked.area)
        hook = {"folders": folders, "at": at, "signal": "SIGKILL"}
        ended = attacked.runner.run(scenario.argv, hook, **attacked.env)
        event, path = changes[at - 1]
        wrong = [] if ended.code == 137 else [f"exit code {ended.code}"]
        kept = {name: content for name, content in before.items() if not fnmatch_any(name, scenario.kept)}
        wrong += lost(kept, tree(attacked.area)) if scenario.old else []
        again = attacked.runner.run(scenario.resumes or scenario.argv, **attacked.env)
        if again.code:
            wrong.append(f"the next start ended with {again.code}: {(again.err or again.out)[-800:]}")
        new = dict.fromkeys(expected, b"")
        wrong += litter(attacked, scenario, new)
        missing = [
            name for name in expected if name not in tree(attacked.area) and not name.startswith(("cache", "tmp"))
        ]
        wrong += [f"missing: {missing[:4]}"] * bool(missing)
        yield Row(
            "SIGKILL, started again",
            scenario.name,
            f"change {at} of {len(changes)} ({event} {path.rpartition('/')[2]})",
            wrong,
        )


def _judge(
    attacked: Attacked,
    scenario: Scenario,
    before: dict[str, bytes],
    new: dict[str, bytes],
    started: Started,
    name: str | None,
    what: str,
    sent: str = "",
) -> Row:
    if name is not None:
        started.send(getattr(signal, name), group=name == "SIGINT")
    ended = started.wait()
    kind = name or sent
    now = tree(attacked.area)
    if ended.code == 0:  # the work was done before the signal came
        wrong = never_said(ended) + litter(attacked, scenario, new)
        wrong += [f"ended with 0 without {path}" for path in sorted(changed(before, new)) if path not in now][:3]
        return Row(kind, scenario.name, f"{what}: was done", wrong, (ended.out + ended.err)[-1500:])
    if changed(before, now) == changed(before, new):
        before = now
    wrong = faults(attacked, scenario, ended, before, (CODES[kind],))
    return Row(kind, scenario.name, what, wrong, " ".join(last_words(ended)) or (ended.out + ended.err)[-1500:])
