"""Endpoints and a Hub that misbehave, and Ctrl-C while a command waits for them."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator

from attacks.disks import Row
from attacks.judging import faults, last_words, tree
from attacks.scenarios import Attacked, Scenario
from attacks.silent_server import MANNERS, silent_server


SECONDS = 60.0  # time limit for `collect` with a timeout of one second
SECONDS_OF_THE_HUB = 240.0  # time limit for `push`; the Hub's client retries with growing delays


def misbehaving(attacked: Attacked, scenario: Scenario) -> Iterator[Row]:
    """Tries every way to misbehave on the commands that contact a server."""
    hub = scenario.command.startswith("push")
    if scenario.command != "collect" and (not hub or "--preview" in scenario.argv):
        return
    for manner in MANNERS:
        with silent_server(manner) as address:
            yield _attack(attacked, scenario, address, manner, None)
    for name in ("SIGINT", "SIGTERM"):
        with silent_server("silent") as address:
            yield _attack(attacked, scenario, address, f"silent, {name} while it waits", name)


def _attack(attacked: Attacked, scenario: Scenario, address: str, what: str, name: str | None) -> Row:
    argv, env = list(scenario.argv), dict(attacked.env)
    bound = SECONDS
    if scenario.command == "collect":
        argv[argv.index("--base-url") + 1] = f"{address}/v1"
        argv += ["--timeout", "1", "--max-retries", "0"]
    else:
        env["HF_ENDPOINT"] = address
        bound = SECONDS_OF_THE_HUB
    attacked.clear(scenario)
    before = tree(attacked.area)
    started = attacked.runner.spawn(argv, **env)
    if name is not None:
        time.sleep(15 if scenario.command != "collect" else 6)
        started.send(getattr(signal, name), group=name == "SIGINT")
    ended = started.wait(bound)
    # Unanswered prompts are not an error: the exit code is 1, and the same command asks for them again.
    codes = (2, 1) if name is None else (130, 143)
    wrong = faults(attacked, scenario, ended, before, codes)
    wrong += [f"it took {ended.seconds:.0f} s"] if ended.seconds > bound else []
    said = " ".join(last_words(ended)) or re.sub(r"\s+", " ", ended.out + ended.err)[-300:]
    return Row("endpoint" if scenario.command == "collect" else "Hub", scenario.name, what, wrong, said)
