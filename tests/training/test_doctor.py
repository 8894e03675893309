"""What `rm-toolkit doctor` reports about machines, packages, launch configs and recipes."""

from __future__ import annotations

import pytest

from rm_toolkit.cli import main
from rm_toolkit.training.doctor.abilities import engine_missing, engines, kernels
from rm_toolkit.training.doctor.machine import Machine, this_machine
from rm_toolkit.training.doctor.packages import Package, wanted_packages
from rm_toolkit.training.doctor.recipe_needs import missing_for_launch, missing_for_recipe, takes_cpu
from rm_toolkit.training.plan.launch import read_launch


LAPTOP = Machine(cores=2, memory=2**34, gloo=True)
TWO_GPUS = Machine(
    cores=16,
    memory=2**38,
    gpus=("H100", "H100"),
    gpu_memory=80 * 2**30,
    bf16=True,
    compiler="/usr/bin/c++",
    ninja=True,
    triton=True,
    gloo=True,
    nccl=True,
)


def has_all(name: str) -> bool:
    return True


def has_nothing(name: str) -> bool:
    return False


def test_each_engine_names_what_it_waits_for():
    def missing(machine, kind, has=has_all, **options):
        defaults = {"on_cpu": False, "offload": False, "processes": 1}
        return engine_missing(machine, kind, has=has, **{**defaults, **options})

    assert missing(LAPTOP, "none", on_cpu=True) == ""
    assert missing(LAPTOP, "ddp", on_cpu=True, processes=2) == ""
    assert missing(LAPTOP, "none") == "a GPU"
    assert missing(LAPTOP, "fsdp2") == "a GPU (accelerate has no FSDP on CPUs)"
    assert missing(TWO_GPUS, "fsdp2", processes=2) == ""
    assert missing(TWO_GPUS, "ddp", processes=8) == "8 GPUs (2 here)"
    assert missing(TWO_GPUS, "zero3", has_nothing) == "deepspeed (pip install deepspeed)"
    needed = missing(LAPTOP, "zero3", on_cpu=True, offload=True)
    assert "a C++ compiler" in needed and "ninja" in needed


def test_what_works_on_a_laptop_and_on_gpus():
    def works(machine, has):
        return {ability.name for ability in [*engines(machine, has), *kernels(machine, has)] if not ability.missing}

    laptop = works(LAPTOP, has_nothing)
    assert "one process on the CPU" in laptop and "prompts computed once, on the CPU" in laptop
    assert not laptop & {"one GPU", "FSDP 2", "use_liger_kernel", "load_in_4bit (QLoRA)", "torch_compile"}
    gpus = {ability.name: ability.missing for ability in engines(TWO_GPUS, has_all)}
    assert set(gpus.values()) == {""}


def test_packages_come_from_the_metadata_with_their_extras():
    lines = [
        "torch>=2.8",
        "torch-of-nobody<2; extra == 'x'".replace("'", '"'),
        'rich>=9999; extra == "y"',
        'x; platform_system == "Nowhere"',
    ]
    found = {package.name: package for package in wanted_packages(lines)}
    assert set(found) == {"torch", "torch-of-nobody", "rich"}
    assert found["torch"].fits and found["torch"].extra is None
    assert found["torch-of-nobody"].installed is None and found["torch-of-nobody"].extra == "x"
    assert found["rich"].installed and not found["rich"].fits
    assert Package("a", ">=2", "2.1+cpu").fits


def test_a_launch_config_that_this_machine_cannot_start(tmp_path):
    multi_gpu = read_launch("accelerate_configs/multi_gpu.yaml")
    assert missing_for_launch(LAPTOP, multi_gpu, has_all) == []  # it runs on CPUs there
    (line,) = missing_for_launch(TWO_GPUS, multi_gpu, has_all)
    assert "8 GPUs (2 here)" in line
    (line,) = missing_for_launch(LAPTOP, read_launch("accelerate_configs/fsdp2.yaml"), has_all)
    assert "no FSDP on CPUs" in line


def test_a_recipe_for_a_gpu_says_everything_that_is_missing_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("rm_toolkit.training.doctor.recipe_needs.constants.HF_HUB_OFFLINE", True)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "model_name_or_path: someone/no-such-model\ntrain_datasets: {a: outputs/a/b}\neval_datasets: {b: someone/b}\n"
        "bf16: true\nuse_liger_kernel: true\nload_in_4bit: true\nuse_peft: true\nreport_to: [trackio]\n"
    )
    monkeypatch.setattr("rm_toolkit.training.reports.integration_utils.is_trackio_available", lambda: False)
    monkeypatch.setattr("rm_toolkit.models.quantization.importlib.util.find_spec", lambda name: None)
    lines = missing_for_recipe(LAPTOP, recipe, [], on_cpu=False, has=has_nothing)
    for part in ("bf16", "use_liger_kernel: true needs a GPU", "needs liger-kernel", "bitsandbytes", "trackio"):
        assert sum(part in line for line in lines) == 1, (part, lines)
    assert any("train_datasets, a: outputs/a/b is not there" in line for line in lines)
    assert any("eval_datasets, b: someone/b is not in the cache" in line for line in lines)
    assert any("someone/no-such-model is not in the cache" in line for line in lines)
    assert missing_for_recipe(LAPTOP, "recipes/tiny/grft.yaml", [], on_cpu=True, has=has_nothing) == []
    assert missing_for_recipe(LAPTOP, "recipes/tiny/sft.yaml", [], on_cpu=True, has=has_nothing) == []


def test_the_command_ends_with_2_where_something_is_missing(capfd, monkeypatch):
    assert (
        main(["doctor", "--config", "recipes/tiny/grft.yaml", "--accelerate-config", "accelerate_configs/cpu.yaml"])
        == 0
    )
    printed = capfd.readouterr().out
    for part in ("Engines", "Kernels", "Packages", "everything that it needs is here"):
        assert part in printed
    monkeypatch.setattr("rm_toolkit.training.doctor.machine.this_machine", lambda: LAPTOP)
    fsdp = ["--accelerate-config", "accelerate_configs/fsdp2.yaml"]
    assert main(["doctor", *fsdp]) == 2
    assert "cannot run here yet: 1 thing(s)" in capfd.readouterr().err
    assert main(["doctor", "--bf16", "false"]) == 2
    assert "add --config FILE" in capfd.readouterr().err


def test_this_machine_is_looked_at():
    machine = this_machine()
    assert machine.cores >= 1 and machine.memory > 0 and machine.gloo


@pytest.mark.parametrize("name", ["deepspeed", "no-such-package"])
def test_the_kind_of_an_engine_decides_whether_deepspeed_is_asked_for(name):
    def has(package):
        return package == name

    missing = engine_missing(TWO_GPUS, "zero2", on_cpu=False, offload=False, processes=2, has=has)
    assert bool(missing) == (name != "deepspeed")


def test_what_a_cpu_refuses_is_missing_though_its_processes_would_compute_on_cpus():
    def lines(launch, *flags):
        on_cpu = takes_cpu(LAPTOP, launch and read_launch(f"accelerate_configs/{launch}.yaml"))
        return missing_for_recipe(LAPTOP, "recipes/tiny/grft.yaml", list(flags), on_cpu=on_cpu, has=has_all)

    for launch in (None, "single_gpu"):  # one process does not choose the CPU by itself
        assert any("bf16: true needs a GPU" in line for line in lines(launch, "--bf16", "true"))
    assert lines("cpu", "--bf16", "true") == lines("multi_gpu", "--bf16", "true") == []
    assert any("tf32" in line for line in lines("cpu", "--tf32", "true"))


def test_a_name_of_the_hub_is_no_missing_file(monkeypatch):
    monkeypatch.setattr("rm_toolkit.training.doctor.recipe_needs.constants.HF_HUB_OFFLINE", False)
    flags = ["--model_name_or_path", "gpt2", "--train_datasets", "a=imdb", "--tiny_base", "{}"]
    assert missing_for_recipe(LAPTOP, "recipes/tiny/grft.yaml", flags, on_cpu=True, has=has_all) == []
