"""
Runs commands and recipes in forks of a process that has imported everything, which take one second each instead of
ten.

Reads one request per line from stdin (JSON: `number`, `argv`, `env`, `out`, `hook`) and answers with the process id,
and with the exit code when the process has ended. A forked process ends as an interpreter does, including exit
handlers.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import select
import signal
import sys
import tempfile


PRELOADED = [
    "torch",
    "transformers",
    "datasets",
    "trl",
    "peft",
    "pyarrow.parquet",
    "matplotlib.pyplot",
    "openai",
    "huggingface_hub",
    "safetensors.torch",
    "rm_toolkit.training.stages",
    "rm_toolkit.training.trainer",
    "rm_toolkit.training.sft",
    "rm_toolkit.training.recipe",
    "rm_toolkit.evaluation",
    "rm_toolkit.evaluation.report",
    "rm_toolkit.scoring.files",
    "rm_toolkit.merging.frontier",
    "rm_toolkit.merging.merge",
    "rm_toolkit.inspection.inspector",
    "rm_toolkit.hub.models",
    "rm_toolkit.hub.datasets",
    "rm_toolkit.data.build",
    "rm_toolkit.collection.collect",
    "rm_toolkit.study.runner",
    "rm_toolkit.study.report",
    "rm_toolkit.training.plan.plan",
    "rm_toolkit.training.plan.report",
]


def serve() -> dict:
    """Forks a process for each request; returns, in the forked process, its request."""
    for name in PRELOADED:
        importlib.import_module(name)
    print(json.dumps({"ready": True}), flush=True)
    numbers: dict[int, int] = {}
    waiting = b""
    while True:
        ready, _, _ = select.select([0], [], [], 0.01)
        if ready:
            read = os.read(0, 1 << 16)
            if not read:
                os._exit(0)
            waiting += read
            *lines, waiting = waiting.split(b"\n")
            for line in lines:
                request = json.loads(line)
                pid = os.fork()
                if pid == 0:
                    return request
                numbers[pid] = request["number"]
                print(json.dumps({"number": request["number"], "pid": pid}), flush=True)
        while numbers:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            code = os.waitstatus_to_exitcode(status)
            print(json.dumps({"number": numbers.pop(pid), "code": code}), flush=True)


def become(request: dict) -> None:
    """Makes this process look as if a shell had started it."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    streams = [os.open(os.devnull, os.O_RDONLY)]
    streams += [os.open(f"{request['out']}.{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND) for name in ("out", "err")]
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.update(request["env"])
    tempfile.tempdir = None
    sys.argv = list(request["argv"])
    if request["hook"]:
        from attacks.hook import Hook

        Hook(**request["hook"]).install()


if __name__ == "__main__":
    request = serve()
    become(request)
    if sys.argv[0].endswith(".py"):
        sys.path[0] = os.path.dirname(sys.argv[0])
        runpy.run_path(sys.argv[0], run_name="__main__")
        sys.exit(0)
    from rm_toolkit.cli import main

    sys.exit(main())
