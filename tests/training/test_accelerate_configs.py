"""Every launch config, read as by `accelerate launch` down to the engine's plugin, and combined with every recipe."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import torch
import yaml
from accelerate import DeepSpeedPlugin, FullyShardedDataParallelPlugin
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import (
    prepare_deepspeed_cmd_env,
    prepare_multi_gpu_env,
    prepare_simple_launcher_cmd_env,
)

from rm_toolkit.errors import InputError
from rm_toolkit.training.config import RewardModelConfig
from rm_toolkit.training.engines import check_engine, full_precision_weights, launched_for_cpu, read_engine
from rm_toolkit.training.plan import launch as plan_launch
from rm_toolkit.training.recipe_file import load_yaml
from rm_toolkit.training.weight_bytes import weight_bytes


ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "accelerate_configs"
# Name -> distributed_type, machines, processes, ZeRO stage, offloaded
CLAIMS = {
    "cpu": ("NO", 1, 1, None, False),
    "single_gpu": ("NO", 1, 1, None, False),
    "multi_gpu": ("MULTI_GPU", 1, 8, None, False),
    "fsdp2": ("FSDP", 1, 8, None, False),
    "zero2": ("DEEPSPEED", 1, 8, 2, False),
    "zero3": ("DEEPSPEED", 1, 8, 3, False),
    "zero3_offload": ("DEEPSPEED", 1, 8, 3, True),
    "multi_node_zero3_offload": ("DEEPSPEED", 2, 16, 3, True),
}
RECIPES = sorted((ROOT / "recipes").glob("*/[gc]rft.yaml"))


@pytest.fixture
def environment(monkeypatch):
    """`environment(name)`: sets, for the test, the environment variables that `accelerate launch` would set."""

    def get(name):
        path = FOLDER / f"{name}.yaml"
        arguments = launch_command_parser().parse_args(["--config_file", str(path), "recipes/grft.py"])
        arguments, defaults, _ = _validate_launch_command(arguments)
        if arguments.use_deepspeed:
            arguments.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
            found = prepare_deepspeed_cmd_env(arguments)[1]
        elif arguments.multi_gpu or arguments.use_fsdp:
            found = prepare_multi_gpu_env(arguments)
        else:
            found = prepare_simple_launcher_cmd_env(arguments)[1]
        for key, value in found.items():
            if key.startswith(("ACCELERATE_", "FSDP_")):
                monkeypatch.setenv(key, value)
        return found

    before = dict(os.environ)
    yield get
    for key in set(os.environ) - set(before):
        if key.startswith(("ACCELERATE_", "FSDP_", "MASTER_")):
            del os.environ[key]


def test_the_configs_are_those_that_the_readme_lists():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(CLAIMS)
    text = (FOLDER / "README.md").read_text()
    assert set(re.findall(r"^\| `(\w+)\.yaml`", text, re.M)) == set(CLAIMS)


@pytest.mark.parametrize("name", CLAIMS)
def test_what_a_user_must_edit_is_marked_and_the_rest_is_the_recipes(name):
    path, (kind, machines, processes, _, _) = FOLDER / f"{name}.yaml", CLAIMS[name]
    config, text = load_config_from_file(str(path)), path.read_text()
    assert (str(config.distributed_type).rsplit(".", 1)[-1], config.num_machines, config.num_processes) == (
        kind,
        machines,
        processes,
    )
    assert config.mixed_precision == "no" and text.startswith("# ")  # the recipe's bf16 decides
    marked = set(re.findall(r"^(\w+):.*# EDIT: \w", text, re.M))
    several = {"num_machines", "machine_rank", "main_process_ip", "main_process_port"} if machines > 1 else set()
    assert marked == ({"num_processes"} if processes > 1 else set()) | several
    assert processes % machines == 0
    assert not re.search(r"EDIT(?!: \w)", text)


@pytest.mark.parametrize("name", [name for name, claim in CLAIMS.items() if claim[3]])
def test_deepspeed_takes_what_must_agree_from_the_recipe(name, environment):
    found = environment(name)
    plugin = DeepSpeedPlugin()
    stage, offloaded = CLAIMS[name][3:]
    zero = plugin.deepspeed_config["zero_optimization"]
    assert (plugin.zero_stage, zero["stage"]) == (stage, stage)
    for part in ("optimizer", "param"):
        assert zero[f"offload_{part}"]["device"] == ("cpu" if offloaded else "none")
    assert plugin.deepspeed_config["gradient_clipping"] == "auto"
    assert plugin.deepspeed_config["gradient_accumulation_steps"] == "auto"
    assert plugin.deepspeed_config["train_micro_batch_size_per_gpu"] == "auto"
    assert found["ACCELERATE_MIXED_PRECISION"] == "no"
    assert not plugin.deepspeed_config.get("bf16", {}).get("enabled")
    if stage == 3:
        assert zero["stage3_gather_16bit_weights_on_model_save"] is True and plugin.is_zero3_init_enabled()


def test_fsdp2_wraps_the_layers_and_leaves_precision_to_the_recipe(environment):
    environment("fsdp2")
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2 and plugin.reshard_after_forward is True
    assert plugin.auto_wrap_policy.__name__ == "transformer_auto_wrap_policy"
    assert plugin.transformer_cls_names_to_wrap is None  # the model's own names
    assert plugin.mixed_precision_policy is None and not plugin.activation_checkpointing
    assert "SHARDED" in str(plugin.state_dict_type) and not plugin.cpu_ram_efficient_loading


@pytest.mark.parametrize("name", CLAIMS)
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_accumulation_follows_from_the_process_count_of_every_config(name, path, monkeypatch, tmp_path):
    values, processes = load_yaml(path), CLAIMS[name][2]
    monkeypatch.setattr(RewardModelConfig, "world_size", processes)
    options = {key: values[key] for key in ("pairs_per_step", "per_device_train_batch_size")}
    at_once = processes * values["per_device_train_batch_size"]

    def make():
        return RewardModelConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none", **options)

    if values["pairs_per_step"] % at_once:
        with pytest.raises(
            InputError, match=rf"`pairs_per_step` is {values['pairs_per_step']}, which {processes} proc"
        ):
            make()
        options["per_device_train_batch_size"] = 1  # as the message says
        at_once = processes
    made = make()
    assert made.pairs_per_step == values["pairs_per_step"]
    assert made.gradient_accumulation_steps * at_once == values["pairs_per_step"]


# ---- what rm_toolkit.training.engines reads from it ----


class Config:
    """The fields that `full_precision_weights` reads."""

    def __init__(self, plugin=None, **values):
        self.bf16 = self.fp16 = False
        self.deepspeed, self.deepspeed_plugin = None, plugin
        for name, value in values.items():
            setattr(self, name, value)


@pytest.mark.parametrize("precision, dtype", [("bf16", "bfloat16"), ("fp16", "float16")])
def test_deepspeed_computes_by_autocast_on_fp32_weights(environment, precision, dtype):
    environment("zero3_offload")
    config = Config(DeepSpeedPlugin(), **{precision: True})
    with full_precision_weights(config):
        config.deepspeed_plugin.set_mixed_precision(os.environ["ACCELERATE_MIXED_PRECISION"])
    found = config.deepspeed_plugin.deepspeed_config
    assert not found["bf16"]["enabled"] and not found["fp16"]["enabled"]
    assert found["torch_autocast"] == {"enabled": True, "dtype": dtype, "lower_precision_safe_modules": []}
    assert (config.bf16, config.fp16, config.autocast) == (False, False, precision)


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
@pytest.mark.parametrize("name", CLAIMS)
def test_the_plan_and_the_engine_mean_the_same_by_a_precision(name, precision, environment):
    """The engine's precision is read from the config of the launch: DeepSpeed's switches, or FSDP's policy."""
    from deepspeed.runtime.config import get_torch_autocast_dtype, get_torch_autocast_enabled
    from deepspeed.runtime.precision_config import get_bfloat16_config, get_float16_config

    environment(name)
    planned = plan_launch.read_launch(FOLDER / f"{name}.yaml")
    kind = CLAIMS[name][0]
    config = Config(DeepSpeedPlugin() if kind == "DEEPSPEED" else None)
    if precision != "no":
        setattr(config, precision, True)
    with full_precision_weights(config):
        if config.deepspeed_plugin:
            config.deepspeed_plugin.set_mixed_precision(os.environ["ACCELERATE_MIXED_PRECISION"])
    dtype, computed = torch.float32, os.environ["ACCELERATE_MIXED_PRECISION"]
    if config.deepspeed_plugin:
        found = config.deepspeed_plugin.deepspeed_config
        for section, kept in (
            (get_bfloat16_config(found), torch.bfloat16),
            (get_float16_config(found), torch.float16),
        ):
            dtype = kept if section.enabled else dtype
        computed = "no"
        if get_torch_autocast_enabled(found):
            computed = {torch.bfloat16: "bf16", torch.float16: "fp16"}[get_torch_autocast_dtype(found)]
    state = {"deepspeed_plugin": config.deepspeed_plugin}
    if kind == "FSDP":
        state = {"fsdp_plugin": FullyShardedDataParallelPlugin()}
        assert state["fsdp_plugin"].mixed_precision_policy is None  # weights and gradients keep their precision
    accelerator = Accelerator(kind, planned.num_processes, **state)
    accelerator.mixed_precision = os.environ["ACCELERATE_MIXED_PRECISION"]
    accelerator.device.type = "cpu" if name == "cpu" else "cuda"
    launched = planned.launched(precision)
    assert launched == read_engine(accelerator)
    assert computed == precision
    held = weight_bytes(launched)
    assert held.weights == held.gradients == held.element == dtype.itemsize
    weights = plan_launch.Weights(parameters=800, trained=800, stored=800 * held.weights, largest=10)
    memory = plan_launch.model_states(planned, weights, "adamw_torch", accumulates=True)
    for part in ("parameters", "gradients"):
        parts = planned.num_processes if planned.sharded or (part == "gradients" and "zero" in planned.kind) else 1
        total = memory.device[part] + memory.host[part] / planned.per_machine
        assert total == 800 * dtype.itemsize // parts


def test_a_deepspeed_config_with_16_bit_weights_is_refused(environment):
    environment("zero2")
    plugin = DeepSpeedPlugin()
    plugin.deepspeed_config["bf16"] = {"enabled": True}
    with pytest.raises(InputError, match=r"`bf16.enabled: true`, which would keep the weights in 16 bits"):
        with full_precision_weights(Config(plugin)):
            pass


def test_the_recipe_decides_on_precision_not_the_launch_config(monkeypatch, tmp_path):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    made = RewardModelConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none")
    assert made.mixed_precision == "no" and made.autocast is None


class Accelerator:
    """The part of an accelerator that `check_engine` reads."""

    def __init__(self, kind="NO", num_processes=1, **state):
        from accelerate.utils import DistributedType

        self.distributed_type, self.num_processes = DistributedType(kind), num_processes
        self.state = type("State", (), state)
        self.deepspeed_engine_wrapped, self.mixed_precision = None, "no"
        self.device = type("Device", (), {"type": "cpu"})


def test_independent_runs_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match=r"2 processes were started, but each of them would run on its own"):
        check_engine(Accelerator(), "adamw_torch")
    assert launched_for_cpu() is not torch.accelerator.is_available()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert not launched_for_cpu()


def test_fsdp_that_would_be_something_else_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(InputError, match=r"asks for FSDP, but what would run is MULTI_CPU"):
        monkeypatch.setenv("WORLD_SIZE", "2")
        check_engine(Accelerator("MULTI_CPU", 2), "adamw_torch")
    plugin = type("Plugin", (), {"fsdp_version": 1})
    with pytest.raises(InputError, match=r"FSDP 1 is not supported. Set `fsdp_version: 2`"):
        check_engine(Accelerator("FSDP", 2, fsdp_plugin=plugin), "adamw_torch")


def test_an_optimizer_that_deepspeed_would_replace_is_refused(environment):
    environment("zero3_offload")
    accelerator = Accelerator("DEEPSPEED", 1, deepspeed_plugin=DeepSpeedPlugin())
    with pytest.raises(
        InputError, match=r"`optim` is 'sgd', but with the optimizer offloaded DeepSpeed would run its"
    ):
        check_engine(accelerator, "sgd")
    check_engine(accelerator, "adamw_torch_fused")
    assert str(read_engine(accelerator)) == (
        "Engine DEEPSPEED ZeRO-3 (on the host: optimizer, param), 1 process(es), cpu, mixed precision no"
    )


def test_all_launch_configs_name_only_known_keys():
    for path in FOLDER.glob("*.yaml"):
        assert yaml.safe_load(path.read_text())["compute_environment"] == "LOCAL_MACHINE"
