"""The Slurm script, with stand-ins for `srun` and `scontrol` on PATH: two processes act as two machines."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "recipes" / "slurm" / "train.sh"

SRUN = r"""#!/usr/bin/env bash
while [[ $1 == -* ]]; do echo "$1" >> "$LOG/srun"; shift; done
for node in 0 1; do
  SLURM_NODEID=$node SLURM_PROCID=$node "$@" &
  echo $! > "$LOG/task$node"
done
most=0
for node in 0 1; do
  status=0; wait "$(cat "$LOG/task$node")" || status=$?
  if (( status > most )); then most=$status; fi
done
exit $most
"""
SCONTROL = r"""#!/usr/bin/env bash
echo "$*" >> "$LOG/scontrol"
if [[ $1 == show && $2 == hostnames ]]; then printf '127.0.0.1\nother\n'; fi
if [[ $1 == show && $2 == job ]]; then printf 'JobId=%s\n   Command=%s more\n' "$3" "$SCRIPT"; fi
"""
ACCELERATE = r"""#!/usr/bin/env bash
echo "$* timeout=$TORCH_ELASTIC_SHUTDOWN_TIMEOUT" > "$LOG/launch$SLURM_NODEID"
if [[ -n ${WAITS:-} ]]; then
  trap 'echo checkpoint > "$LOG/saved$SLURM_NODEID"; exit 1' TERM
  touch "$LOG/ready$SLURM_NODEID"
  while :; do sleep 0.05; done
fi
exit "${FAILS:-0}"
"""


@pytest.fixture
def job(tmp_path):
    """`job(*arguments, accelerate=…, **environment)`: runs the script as Slurm would."""

    started = []

    def start(*arguments, accelerate=ACCELERATE, **environment):
        folder = tmp_path / "bin"
        folder.mkdir()
        stand_ins = {"srun": SRUN, "scontrol": SCONTROL, **({"accelerate": accelerate} if accelerate else {})}
        for name, text in stand_ins.items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        path = f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        slurm = {
            "SLURM_JOB_ID": "12345",
            "SLURM_NNODES": "2",
            "SLURM_JOB_NODELIST": "n[1-2]",
            "SLURM_GPUS_ON_NODE": "8",
        }
        env = {**os.environ, **slurm, "PATH": path, "LOG": str(tmp_path), "SCRIPT": str(SCRIPT), **environment}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        started.append(subprocess.Popen(["bash", str(SCRIPT), *arguments], cwd=ROOT, env=env, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_every_machine_is_told_where_all_meet_and_which_it_is(job, tmp_path):
    process = job("recipes/grft.py", "--config", "recipes/tiny/grft.yaml", "--run_name", "two words")
    assert process.wait(30) == 0, process.stdout.read()
    for rank in range(2):
        assert (tmp_path / f"launch{rank}").read_text() == (
            "launch --config_file accelerate_configs/multi_node_zero3_offload.yaml --num_machines 2 --num_processes 16 "
            f"--machine_rank {rank} --main_process_ip 127.0.0.1 --main_process_port 32345 recipes/grft.py "
            "--config recipes/tiny/grft.yaml --run_name two words --resume_from_checkpoint auto timeout=280\n"
        )
    assert "requeue" not in (tmp_path / "scontrol").read_text()


def test_a_job_that_is_stopped_saves_and_is_queued_again(job, tmp_path):
    process = job("recipes/grft.py", WAITS="1")
    end = time.monotonic() + 30
    while not all((tmp_path / f"ready{rank}").exists() for rank in range(2)):
        assert time.monotonic() < end
        time.sleep(0.05)
    for rank in range(2):
        os.kill(int((tmp_path / f"task{rank}").read_text()), signal.SIGTERM)
    assert process.wait(30) == 143
    assert all((tmp_path / f"saved{rank}").exists() for rank in range(2))
    assert (tmp_path / "scontrol").read_text().endswith("requeue 12345\n")


def test_a_job_that_fails_is_not_queued_again(job, tmp_path):
    process = job("recipes/grft.py", FAILS="2")
    assert process.wait(30) == 2
    assert "requeue" not in (tmp_path / "scontrol").read_text()


def test_without_a_recipe_it_says_what_to_give(job):
    process = job()
    assert process.wait(30) == 2
    assert "usage: sbatch" in process.stdout.read()


def test_what_slurm_is_asked_for():
    asked = [line.split(" ")[1] for line in SCRIPT.read_text().splitlines() if line.startswith("#SBATCH")]
    assert {"--signal=TERM@300", "--requeue", "--open-mode=append", "--ntasks-per-node=1"} <= set(asked)


@pytest.mark.slow
def test_two_machines_of_one_process_each_train_together(job, tmp_path):
    settings = {"output_dir": tmp_path / "run", "max_steps": 1, "use_cpu": "true", "eval_strategy": "no"}
    settings |= {"eval_on_start": "false"}
    flags = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    config = str(ROOT / "accelerate_configs" / "multi_gpu.yaml")
    machines = {
        "LAUNCH_CONFIG": config,
        "PROCESSES_PER_MACHINE": "1",
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
    }
    process = job("recipes/grft.py", *flags, accelerate=None, **machines)
    printed = process.communicate(timeout=600)[0]
    assert process.returncode == 0, printed[-3000:]
    assert "2 process(es)" in printed
    assert (tmp_path / "run" / "final_eval_results.json").exists()
