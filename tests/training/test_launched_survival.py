"""Launched runs that are signalled or killed: no process is left, and ZeRO-3 continues where it was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from faulty_runs import ending

from rm_toolkit.training.manifest import checkpoints, find_checkpoint


ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.launch
ONE = {"compute_environment": "LOCAL_MACHINE", "distributed_type": "NO", "use_cpu": True, "num_processes": 1}
TWO = {**ONE, "distributed_type": "MULTI_GPU", "num_processes": 2, "num_machines": 1, "main_process_port": 0}
ZERO3 = {
    **yaml.safe_load((ROOT / "accelerate_configs" / "zero3_offload.yaml").read_text()),
    "use_cpu": True,
    "num_processes": 2,
    "main_process_port": 0,
}
MANY_STEPS = {"num_train_epochs": 2000, "eval_strategy": "no", "eval_on_start": False, "save_steps": 10**6}


@pytest.fixture
def start(base_model, rows, tmp_path):
    """`start(config, options, *fault)`: starts the run with `accelerate launch`, in its own process group."""
    (tmp_path / "data.json").write_text(json.dumps({"train": rows.ranked(10), "pairs": rows.pairs(5, seed=1)}))
    started = []

    def launch(config, options, *fault, folder="run"):
        file = tmp_path / "accelerate.yaml"
        file.write_text(yaml.safe_dump({**config, "mixed_precision": "no", "dynamo_backend": "no"}))
        paths = [str(ROOT / "tests"), str(ROOT), os.environ.get("PYTHONPATH", "")]
        command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--config_file", file]
        command += [ROOT / "tests" / "survival_worker.py", tmp_path / folder, base_model(), tmp_path / "data.json"]
        log = (tmp_path / f"{len(started)}.log").open("w+")
        process = subprocess.Popen(
            [*map(str, command), json.dumps(options), *map(str, fault)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        process.printed = lambda: Path(log.name).read_text()
        started.append((process, log))
        return process

    yield launch
    for process, log in started:
        for left in family(process.pid):
            left.kill()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        log.close()


def family(pid):
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def wait_for_step(process, step=3, seconds=240):
    """Waits until the run has logged a step; returns its training processes."""
    end = time.monotonic() + seconds
    while f"step {step}/" not in process.printed():
        assert process.poll() is None and time.monotonic() < end, process.printed()[-3000:]
        time.sleep(0.2)
    return [child for child in family(process.pid) if "survival_worker.py" in " ".join(child.cmdline())]


def assert_all_gone(process, children, seconds=60):
    process.wait(seconds)
    _, alive = psutil.wait_procs(children, seconds)
    assert not alive, process.printed()[-3000:]


def assert_stopped_whole(folder, process):
    assert "Stopped by SIGTERM" in process.printed()
    assert len(checkpoints(folder)) == 1 and find_checkpoint(folder)[0]
    assert not (folder / "end.json").exists()


@pytest.mark.parametrize(
    ("whom", "config"),
    [
        ("group", ONE),
        pytest.param("launcher", ONE, marks=pytest.mark.slow),
        pytest.param("run", ONE, marks=pytest.mark.slow),
        pytest.param("group", TWO, marks=pytest.mark.slow),
        pytest.param("launcher", TWO, marks=pytest.mark.slow),
        pytest.param("killed launcher", TWO, marks=pytest.mark.slow),
        pytest.param("run", TWO, marks=pytest.mark.slow),
    ],
)
def test_a_signal_reaches_every_process_of_a_launched_run(start, tmp_path, whom, config):
    process = start(config, MANY_STEPS)
    children = wait_for_step(process)
    assert len(children) == config["num_processes"]
    if whom == "group":
        os.killpg(process.pid, signal.SIGTERM)
    elif whom == "run":
        children[0].send_signal(signal.SIGTERM)
    else:
        process.send_signal(signal.SIGKILL if whom == "killed launcher" else signal.SIGTERM)
    assert_all_gone(process, children)
    assert process.returncode != 0
    assert_stopped_whole(tmp_path / "run", process)
    if whom == "run" and config is ONE:
        assert "returned non-zero exit status 143" in process.printed()


@pytest.mark.slow
def test_one_process_that_is_killed_ends_the_others_and_the_launcher(start, tmp_path):
    process = start(TWO, {**MANY_STEPS, "ddp_timeout": 30})
    children = wait_for_step(process)
    children[1].kill()
    assert_all_gone(process, children)
    assert process.returncode not in (0, 143)


@pytest.mark.slow
def test_zero3_with_offload_killed_and_stopped_resumes_to_1e_6(start, tmp_path):
    options = {"lm_loss_coef": 0.3, "save_total_limit": 2}
    whole = start(ZERO3, options, folder="whole")
    assert whole.wait(400) == 0, whole.printed()[-3000:]
    killed = start(ZERO3, options, "on_step_end", 5, int(signal.SIGKILL), 1)
    assert killed.wait(400) != 0
    assert list(checkpoints(tmp_path / "run")) == [2, 4]
    stopped = start(ZERO3, options, "on_step_begin", 8, int(signal.SIGTERM), 0)
    assert stopped.wait(400) != 0 and "Stopped by SIGTERM at step 9" in stopped.printed()
    last = start(ZERO3, options)
    assert last.wait(400) == 0, last.printed()[-3000:]
    found, expected = ending(tmp_path / "run"), ending(tmp_path / "whole")
    assert len(found["logs"]) == len(expected["logs"])
    for one, other in zip(found["logs"], expected["logs"]):
        assert one == pytest.approx(other, rel=1e-6, abs=1e-6)
    assert json.loads(found["results"])["start"] == json.loads(expected["results"])["start"]
    for folder in ("run", "whole"):
        assert (tmp_path / folder / "checkpoint-12" / "model.safetensors").exists()
    one, other = (load(tmp_path / folder / "checkpoint-12") for folder in ("run", "whole"))
    assert max((one[name] - other[name]).abs().max().item() for name in other) <= 1e-6


def load(folder):
    from safetensors.torch import load_file

    return {name: value.to(torch.float64) for name, value in load_file(folder / "model.safetensors").items()}
