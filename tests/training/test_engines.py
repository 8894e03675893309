"""
GRFT and CRFT on one process, two DDP processes, two ZeRO-3 processes with offload, and FSDP 2 on a gloo mesh, with one
launch of `benchmarks/engine_agreement.py` each. Covers K responses, LM loss, shared prompts, tied LM head, LoRA, bf16.
"""

from __future__ import annotations

import copy
import json
import re
import runpy
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rm_toolkit.models.settings import load_settings


pytestmark = pytest.mark.launch
ROOT = Path(__file__).parents[2]
bench = runpy.run_path(str(ROOT / "benchmarks" / "engine_agreement.py"))
RUNS = list(bench["RUNS"])
STEPS = 3
# Engine -> launch config, runs, and those whose folder is also opened in a fresh process
ENGINES = {
    "one process": ("cpu", RUNS, []),
    "DDP": ("multi_gpu", RUNS, ["grft"]),
    "ZeRO-3 offload": ("zero3_offload", RUNS, ["grft", "lora"]),
    "FSDP2 on gloo": ("fsdp2", ["grft", "tied", "lora", "bf16"], ["tied"]),
}
# Runs of each engine in the default test run; `-m slow` adds the others.
DEFAULT = {
    "one process": ["grft", "tied", "lora"],
    "DDP": ["grft"],
    "ZeRO-3 offload": ["grft", "tied", "lora"],
    "FSDP2 on gloo": ["tied"],
}
NEEDS = {"crft": "grft", "lora": "tied"}  # run -> the run that saves its base
PAIRS = [
    pytest.param(engine, run, marks=[pytest.mark.slow] if run not in DEFAULT[engine] else [])
    for engine, (_, runs, _) in ENGINES.items()
    for run in runs
]
SHARDED = ("ZeRO-3 offload", "FSDP2 on gloo")


def wanted_runs(session) -> dict[str, list[str]]:
    """The runs of each engine that the selected tests need, in the order of their dependencies."""
    wanted = {engine: set(DEFAULT[engine]) for engine in ENGINES}
    for item in session.items:
        params = getattr(item, "callspec", None) and item.callspec.params
        if item.path == Path(__file__) and params and "run" in params:
            wanted[params["engine"]] |= {params["run"], NEEDS.get(params["run"], params["run"])}
    wanted["one process"] |= set().union(*wanted.values())  # the others are compared with it
    return {engine: [run for run in ENGINES[engine][1] if run in wanted[engine]] for engine in ENGINES}


@pytest.fixture(scope="module")
def launched(request, tmp_path_factory):
    """The folder, what each process of each engine reports about its runs, and what was printed."""
    folder = tmp_path_factory.mktemp("engines") / "runs"
    bench["bases"](folder)
    printed = {}
    wanted = wanted_runs(request.session)
    for engine, (config, _, check) in ENGINES.items():
        runs = wanted[engine]
        check = [run for run in check if run in runs]
        script = ROOT / ("tests/fsdp_on_cpu.py" if config == "fsdp2" else "benchmarks/engine_agreement.py")
        printed[engine] = bench["launch"](engine, folder, STEPS, runs, check=check, config=config, script=script)
    return folder, {engine: bench["read_results"](folder, engine) for engine in ENGINES}, printed


@pytest.mark.parametrize("engine, run", PAIRS)
def test_what_runs_is_what_was_asked_for(launched, engine, run):
    """This is read in the training process from the accelerator, the engine and the weights, not from a config."""
    results = launched[1][engine]
    expected = {
        "one process": ("NO", 1, None, [], None),
        "DDP": ("MULTI_CPU", 2, None, [], None),
        "ZeRO-3 offload": ("DEEPSPEED", 2, 3, ["optimizer", "param"], None),
        "FSDP2 on gloo": ("FSDP", 2, None, [], 2),
    }[engine]
    assert len(results) == expected[1]
    for process in results:
        kind, weights = process[run]["engine"], process[run]["weights"]
        names = ("distributed_type", "num_processes", "zero_stage", "offload", "fsdp_version")
        assert tuple(kind[name] for name in names) == expected
        assert kind["precision"] == ("bf16" if run == "bf16" else "no")
        share = weights["held"] / weights["whole"]
        assert share == (pytest.approx(0.5, abs=0.02) if engine in SHARDED else 1.0)
        assert weights["devices"] == ["cpu"]
        assert process[run]["optimizer"] == ("DeepSpeedCPUAdam" if "ZeRO" in engine else "AdamW")
    assert results[0][run]["layout"] == ("plain" if run == "tied" else "shared")


@pytest.mark.parametrize("engine, run", [pair for pair in PAIRS if pair.values[0] != "one process"])
def test_engines_agree_on_the_loss_of_each_step_and_on_the_counts(launched, engine, run):
    alone, found = launched[1]["one process"][0][run], launched[1][engine][0][run]
    compared = bench["agreement"](alone, found)
    assert len(compared["losses"]) == STEPS and len(set(alone["losses"])) == STEPS
    # Autocast rounds gradients to bf16 before they are summed in a different order.
    assert compared["loss"] < (5e-3 if run == "bf16" else bench["TOLERANCE"])
    assert len(found["lm_losses"]) == STEPS
    if run != "bf16":
        assert all(one == two for one, two, _ in compared["counts"].values())
    pairs = sum(total for _, _, total in compared["counts"].values())
    assert len(compared["counts"]) >= (1 if run == "bf16" else 2)
    assert len(compared["excepted"]) < 0.02 * pairs
    for name, values in found["metrics"].items():
        assert values["num_pairs"] == alone["metrics"][name]["num_pairs"] == len(found["margins"][name])
    # All processes have the same results.
    for process in launched[1][engine][1:]:
        assert process[run]["margins"] == found["margins"]


@pytest.mark.parametrize("engine, run", PAIRS)
def test_the_saved_folder_opens_in_stock_classes_with_the_rewards_of_training(launched, engine, run):
    folder = launched[0] / engine.replace(" ", "-") / run
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tolerance = 2e-2 if run == "bf16" else 1e-5
    for text, expected in launched[1][engine][0][run]["samples"]:
        with torch.no_grad():
            reward = model(**tokenizer(text, truncation=True, return_tensors="pt")).logits.item()
        assert reward == pytest.approx(expected, abs=tolerance, rel=tolerance)
    alone = launched[0] / "one-process" / run
    saved, whole = load_file(folder / "model.safetensors"), load_file(alone / "model.safetensors")
    assert saved.keys() == whole.keys() and saved["score.weight"].shape == (1, 64)
    for name, value in saved.items():
        assert value.dtype == torch.float32 and value.shape == whole[name].shape
        # Adam turns the rounding error of a gradient near zero into a step of up to the learning rate.
        assert (value - whole[name]).abs().mean() < 1e-4 or run == "bf16", name
    if run == "bf16":  # neither weights nor saved weights were ever rounded to 16 bits
        head = saved["score.weight"]
        assert not torch.equal(head, head.bfloat16().float())
    says = load_settings(str(folder)).lm_head
    assert says == ("tied" if run == "tied" else "saved")
    if says == "saved":
        heads = [load_file(path / "lm_head" / "model.safetensors")["weight"] for path in (folder, alone)]
        assert heads[0].shape == heads[1].shape and (heads[0] - heads[1]).abs().mean() < 1e-4


@pytest.mark.parametrize("engine", ENGINES)
def test_a_launch_leaves_cleanly_and_prints_only_what_the_run_says(launched, engine):
    """`launch` itself checks the exit code; a process that aborts while exiting is found here."""
    printed = launched[2][engine]
    known = r"(step |dataset |Engine |Saved to |Next: |[┏┃┡│└━]|\[2026.*Setting accelerator to CPU)"
    lines = [line for line in printed.splitlines() if line.strip() and not re.match(known, line)]
    own = [line for line in lines if "rm_toolkit" in line or re.search("warn|abort|terminate|Traceback", line, re.I)]
    assert not own
    texts = dict(re.findall(r"Saved to .*/(\w+); (\d+) texts", printed))
    assert {run for run, count in texts.items() if int(count) >= 3} == {
        run for run in ENGINES[engine][2] if run in launched[1][engine][0]
    }


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_fsdp2_on_gpus(launched, tmp_path):
    """A real launch with `accelerate_configs/fsdp2.yaml` on two GPUs, compared with the one-process run."""
    folder = tmp_path / "runs"
    shutil.copytree(launched[0], folder)
    config = yaml.safe_load((ROOT / "accelerate_configs" / "fsdp2.yaml").read_text()) | {"num_processes": 2}
    runs = ["grft", "tied", "lora"]
    bench["launch"]("FSDP2 on GPUs", folder, STEPS, runs, config="fsdp2", overrides=config)
    results = bench["read_results"](folder, "FSDP2 on GPUs")
    for run in runs:
        for process in results:
            kind = process[run]["engine"]
            assert (kind["distributed_type"], kind["num_processes"], kind["fsdp_version"]) == ("FSDP", 2, 2)
            assert kind["device"] == "cuda" and process[run]["weights"]["devices"] == ["cuda"]
        compared = bench["agreement"](launched[1]["one process"][0][run], results[0][run])
        assert compared["loss"] < 1e-2  # other kernels
    assert json.loads((folder / "FSDP2-on-GPUs" / "grft" / "config.json").read_text())["num_labels"] == 1


@pytest.mark.parametrize("steps", [1, 5, 30])
def test_a_resumed_cpu_adam_goes_on_bit_for_bit(steps):
    """DeepSpeed multiplies the powers of beta step by step, and would round them differently when resumed."""
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    from rm_toolkit.training.engines import replay_bias_correction

    def train(parameter, optimizer, begin, end):
        for step in range(begin, end):
            parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step)) * 1e-3
            optimizer.step()

    whole = torch.nn.Parameter(torch.ones(100))
    optimizer = DeepSpeedCPUAdam([whole], lr=1e-2)
    train(whole, optimizer, 0, steps)
    resumed = torch.nn.Parameter(whole.detach().clone())
    fresh = DeepSpeedCPUAdam([resumed], lr=1e-2)
    fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    replay_bias_correction(fresh)
    assert torch.equal(resumed, whole)
    for one, other in ((whole, optimizer), (resumed, fresh)):
        train(one, other, steps, steps + 20)
    assert torch.equal(resumed, whole)
