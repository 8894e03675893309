"""One faulty run as a program, for tests that start it with a launcher.

Usage: survival_worker.py FOLDER BASE DATA OPTIONS(JSON) [EVENT STEP SIGNAL RANK]
"""

import json
import sys
from pathlib import Path

from faulty_runs import at, send, train_to_end

from rm_toolkit.training.runtime import run_main, silence_launch_noise


@run_main
def main() -> None:
    """Runs to the end or to the fault."""
    silence_launch_noise()
    folder, base, data, options, *fault = sys.argv[1:]
    callbacks = []
    if fault:
        event, step, number, rank = fault
        callbacks = [at(int(step), event, send(int(number), int(rank)))]
    train_to_end(Path(folder), base, json.loads(Path(data).read_text()), json.loads(options), lambda: callbacks)()


if __name__ == "__main__":
    main()
