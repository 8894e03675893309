"""Two processes give the losses, the metrics and the weights of one."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml


pytestmark = pytest.mark.launch
WORKER = Path(__file__).with_name("processes_worker.py")
worker = runpy.run_path(str(WORKER))
RUNS, main = worker["RUNS"], worker["main"]


def launch(arguments, folder, num_processes=2):
    config = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "MULTI_GPU",  # the name under which accelerate starts several processes; on a CPU with gloo
        "use_cpu": True,
        "num_machines": 1,
        "num_processes": num_processes,
        "main_process_port": 0,
        "mixed_precision": "no",
        "dynamo_backend": "no",
    }
    path = folder / "accelerate.yaml"
    path.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--config_file", str(path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [*command, str(WORKER), *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, (result.stdout + result.stderr)[-4000:]
    return result.stdout + result.stderr


@pytest.fixture(scope="module")
def both(base_model, rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    data = {"train": rows.ranked(6), "pairs": rows.pairs(7, seed=1), "ranked": rows.ranked(4, seed=2)}
    (folder / "rows.json").write_text(json.dumps(data))
    found = {}
    for name in ("one", "two"):
        (folder / name).mkdir()
        arguments = (base_model(), str(folder / "rows.json"), str(folder / name))
        printed = launch(arguments, folder) if name == "two" else main(*arguments)
        found[name] = json.loads((folder / name / "results.json").read_text())
    return found, printed, folder


@pytest.mark.parametrize("run", RUNS)
def test_two_processes_give_the_losses_metrics_and_weights_of_one(both, run):
    one, two = (both[0][name][run] for name in ("one", "two"))
    assert (one["processes"], two["processes"]) == (1, 2)
    assert len(one["logs"]) == len(two["logs"])
    for expected, found in zip(one["logs"], two["logs"]):
        keys = [key for key in expected if "runtime" not in key and "per_second" not in key]
        assert {key: found[key] for key in keys} == pytest.approx({key: expected[key] for key in keys}, abs=2e-5)
    for name, value in one["weights"].items():
        assert two["weights"][name] == pytest.approx(value, abs=1e-5), name


def test_both_processes_compute_a_step_again_when_one_runs_out_of_memory(both):
    _, printed, _ = both
    said = "step 1 ran out of memory on process 1: computed again, from now on in micro-batches of up to 2 pairs"
    assert printed.count("ran out of memory") == printed.count(said) == 1


def test_the_losses_are_learned_from(both):
    losses = [log["loss"] for log in both[0]["two"]["lm"]["logs"] if "loss" in log]
    assert losses[-1] < losses[0] and len(losses) == 8


def test_each_process_saves_its_place_in_the_stream(both):
    places = [json.loads((both[2] / "two/stream/checkpoint-3" / f"stream_state_{k}.json").read_text()) for k in (0, 1)]
    assert [place["num_processes"] for place in places] == [2, 2]
    assert sum(place["row"] for place in places) == 6 and {place["pass"] for place in places} == {2}


def test_one_process_prints_and_saves(both):
    _, printed, folder = both
    lines = [line for line in printed.splitlines() if line.startswith("step 0/")]
    assert len(lines) == 2 * len(RUNS)  # two test sets, once each
    # No library prints a warning that users cannot act on: all lines are the run's own.
    assert not [
        line for line in printed.splitlines() if line and not line.startswith(("step ", "dataset ", "stream: "))
    ]
    assert {path.name for path in (folder / "two" / "lm" / "checkpoint-8").iterdir()} >= {
        "model.safetensors",
        "lm_head",
        "rng_state_0.pth",
        "rng_state_1.pth",
    }
