"""
Injects faults into every command and recipe, and prints how many attacks held.

    python benchmarks/faults.py disks                      # full, read-only, not ours, over quota
    python benchmarks/faults.py signals                    # Ctrl-C and SIGTERM at three moments, and SIGKILL
    python benchmarks/faults.py endpoints                  # an LLM endpoint and a Hub that do not respond
    python benchmarks/faults.py secrets                    # passwords and tokens in the settings of recipes

An attack held if the command printed one line that says what happened, gave the right exit code, left earlier output
unchanged, and left no stray files. The exit code is 1 if any attack did not hold. Real full disks need permission to
mount one: run as root, or under `unshare -rm`.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from attacks import disks, endpoints, planting, signals
from attacks.runner import ROOT, Runner
from attacks.scenarios import Attacked

from rm_toolkit.output.console import console, print_table


sys.path.insert(0, str(ROOT / "tests"))  # the loopback servers
from hub_server import hub_server
from llm_server import llm_server


TOKEN = "hf_secretOfTheAttacks"
KINDS = {
    "disks": (disks.full_disks, disks.read_only, disks.failing_changes),
    "signals": (signals.while_starting, signals.while_working, signals.killed),
    "endpoints": (endpoints.misbehaving,),
    "secrets": (planting.planted,),
    "start": (signals.while_starting,),
    "work": (signals.while_working,),
    "kill": (signals.killed,),
}


@contextlib.contextmanager
def prepared() -> Iterator[Attacked]:
    """Sets up the working area, the inputs and the loopback servers."""
    with (
        tempfile.TemporaryDirectory(prefix="faults-") as temporary,
        llm_server() as (llm, _),
        hub_server(TOKEN) as (hub, _),
    ):
        work = Path(temporary)
        environment = {"HF_ENDPOINT": hub, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "OPENAI_API_KEY": "sk-secret"}
        environment |= {"HF_HOME": str(work / "area" / "cache"), "HF_HUB_OFFLINE": "0"}
        runner = Runner(work, environment)
        try:
            attacked = Attacked(work, runner, llm)
            attacked.prepare()
            yield attacked
        finally:
            runner.close()


def main() -> int:
    """Runs the attacks and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS, help="kind of attack")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="only scenarios whose name begins with one of these"
    )
    options = parser.parse_args()
    rows = []
    with prepared() as attacked:
        for scenario in attacked.scenarios():
            if options.only and not scenario.name.startswith(tuple(options.only)):
                continue
            attacked.make_old(scenario)
            for attack in KINDS[options.kind]:
                for row in attack(attacked, scenario):
                    rows.append(row)
                    console.print(f"{'held' if not row.wrong else 'NOT HELD'} {row.kind}: {row.scenario}: {row.what}")
                    if row.wrong:
                        console.print(f"    {row.wrong}\n    {row.said}")
    tried, held = Counter(row.kind for row in rows), Counter(row.kind for row in rows if not row.wrong)
    print_table(["kind", "tried", "held"], [[kind, str(tried[kind]), str(held[kind])] for kind in tried])
    return 0 if tried == held else 1


if __name__ == "__main__":
    sys.exit(main())
