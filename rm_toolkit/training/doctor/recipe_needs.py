"""What a run needs that is missing here: packages, a GPU, data, the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import constants, try_to_load_from_cache
from trl import ModelConfig

from ...data.records import looks_like_hub_id
from ...data.specs import DatasetSpec
from ...errors import InputError
from ...models.hub_files import split_revision
from ...models.quantization import check_installed
from ..plan.launch import Launch
from ..recipe import GROUPS, parse_recipe, read_values
from ..recipe_file import load_yaml
from ..reports import check_reports
from ..sft import BaseLmArguments, BaseLmConfig
from .abilities import engine_missing
from .machine import Machine


BASE_LM_GROUPS = (BaseLmArguments, BaseLmConfig, ModelConfig)


def computes_on_cpu(machine: Machine, launch: Launch) -> bool:
    """Whether a launch would compute on the CPU here: its config says so, or there is no GPU and its engine can."""
    return launch.on_cpu or (not machine.gpus and launch.kind != "fsdp2")


def takes_cpu(machine: Machine, launch: Launch | None) -> bool:
    """Whether the settings of a run would be read for a CPU: the launch says so, or several processes have no GPU."""
    return launch is not None and (launch.on_cpu or (launch.num_processes > 1 and computes_on_cpu(machine, launch)))


def missing_for_launch(machine: Machine, launch: Launch, has: Callable) -> list[str]:
    """
    What a launch config needs that is missing here.

    Args:
        machine (`Machine`): From [`~rm_toolkit.training.doctor.machine.this_machine`].
        launch (`Launch`): From [`~rm_toolkit.training.plan.launch.read_launch`].
        has (`Callable`): Whether a package, by name, is installed.
    """
    missing = engine_missing(
        machine,
        launch.kind,
        on_cpu=computes_on_cpu(machine, launch),
        offload=launch.offload_optimizer,
        processes=launch.per_machine,
        has=has,
    )
    return [f"{launch.name}: {missing}"] if missing else []


def missing_for_recipe(
    machine: Machine, config: str | Path, flags: list[str], *, on_cpu: bool, has: Callable
) -> list[str]:
    """
    What a recipe needs that is missing here. A mistake in the recipe itself raises an `InputError`, as in a run.

    Args:
        machine (`Machine`): From [`~rm_toolkit.training.doctor.machine.this_machine`].
        config (`str` or `Path`): The recipe.
        flags (`list[str]`): Settings that override it.
        on_cpu (`bool`): Whether the launch says that it computes on CPUs; see [`takes_cpu`].
        has (`Callable`): Whether a package, by name, is installed.
    """
    groups = BASE_LM_GROUPS if "sft_texts" in load_yaml(config) else GROUPS
    values = read_values(config, flags, groups)
    on_cpu = on_cpu or bool(values["use_cpu"])
    # Settings that need a GPU are checked below, one by one; parsing would stop at the first one.
    off = ["bf16", "fp16", "tf32", "use_liger_kernel", "load_in_4bit", "activation_offloading"]
    neutral = ["--use_cpu", "true", *(word for name in off if values.get(name) for word in (f"--{name}", "false"))]
    recipe, training, model = parse_recipe(config, [*flags, *neutral, "--report_to", "none"], groups=groups)
    missing = list(_of_settings(machine, values, on_cpu, has))
    missing += _of_model(model, built=bool(recipe.tiny_base))
    # The base-LM stage has no replay.
    replayed = recipe.replay_datasets if getattr(training, "general_replay_fraction", 0) else {}
    for setting, specs in (
        ("train_datasets", recipe.train_datasets),
        ("eval_datasets", recipe.eval_datasets),
        ("replay_datasets", replayed),
    ):
        for name, spec in (specs or {}).items():
            missing += _of_data(f"{setting}, {name}", DatasetSpec.parse(spec, name).path)
    return missing


def _of_settings(machine: Machine, values: dict[str, Any], on_cpu: bool, has: Callable) -> Iterator[str]:
    if values.get("bf16") and not on_cpu and not machine.gpus:
        yield "bf16: true needs a GPU; on a CPU set --bf16 false, or --use_cpu true"
    if values.get("tf32") and not machine.gpus:
        yield "tf32: true needs a GPU; on a CPU set --tf32 false"
    if values.get("bf16") and machine.gpus and not machine.bf16 and not on_cpu:
        yield "bf16: true needs a GPU with bf16; set --bf16 false --fp16 true"
    for name in ("use_liger_kernel", "activation_offloading"):
        if values.get(name) and (on_cpu or not machine.gpus):
            yield f"{name}: true needs a GPU; leave it out on a CPU"
    if values.get("use_liger_kernel") and not has("liger-kernel"):
        yield 'use_liger_kernel: true needs liger-kernel: pip install -c constraints.txt -e ".[gpu]"'
    if values.get("torch_compile") and not machine.compiler:
        yield "torch_compile: true needs a C++ compiler (g++)"
    for check in (
        lambda: check_installed() if values.get("load_in_4bit") else None,
        lambda: check_reports(values.get("report_to")),
    ):
        try:
            check()
        except InputError as error:
            yield str(error)


def _of_model(model: Any, *, built: bool) -> list[str]:
    """Whether a folder exists, or a Hub id is cached or can be downloaded."""
    name = str(model.model_name_or_path)
    if built or Path(name).is_dir():
        return []
    what = f"model_name_or_path: {name}"
    repo, revision = split_revision(name, model.model_revision)
    if not looks_like_hub_id(repo):
        return [f"{what} is not there: train or download it first, or name another model"]
    cached = isinstance(try_to_load_from_cache(repo, "config.json", revision=revision), str)
    if cached or not constants.HF_HUB_OFFLINE:
        return []
    return [f"{what} is not in the cache of the Hub, and HF_HUB_OFFLINE is set: unset it, or download the model"]


def _of_data(where: str, path: str) -> list[str]:
    if Path(path).exists() or any(mark in path for mark in "*?["):
        return []
    what = f"{where}: {path}"
    if not looks_like_hub_id(path):
        return [f"{what} is not there: `rm-toolkit build-data` makes it from raw data"]
    return [f"{what} is not in the cache, and HF_HUB_OFFLINE is set"] if constants.HF_HUB_OFFLINE else []
