"""The keys that a launch config of accelerate may have, taken from accelerate, also inside `deepspeed_config`."""

from __future__ import annotations

import dataclasses
import functools

from ...output.nested_ranges import Keys, Optional
from ...output.ranges import Choice, Flag, Number, Range


NUMBERS: dict[str, Range] = {
    "num_processes": Number(1, 1_000_000, whole=True, also=(-1,)),
    "num_machines": Number(1, 100_000, whole=True),
    "machine_rank": Number(0, 100_000, whole=True),
    "main_process_port": Optional(Number(0, 65_535, whole=True)),
    "use_cpu": Flag(),
}
OF_DEEPSPEED: dict[str, Range] = {
    "zero_stage": Number(0, 3, whole=True),
    "offload_optimizer_device": Choice(("none", "cpu", "nvme")),
    "offload_param_device": Choice(("none", "cpu", "nvme")),
}


@functools.cache
def launch_keys() -> Keys:
    """The keys of a launch config, and of its parts for DeepSpeed and FSDP."""
    from accelerate.commands.config.config_args import ClusterConfig
    from accelerate.commands.launch import launch_command_parser

    options: dict[str, Range | None] = dict.fromkeys(action.dest for action in launch_command_parser()._actions)
    names = ["dynamo_backend", *(field.name for field in dataclasses.fields(ClusterConfig))]
    known = options | dict.fromkeys(names)
    parts = {"deepspeed_config": Optional(Keys(options | OF_DEEPSPEED)), "fsdp_config": Optional(Keys(options))}
    return Keys(known | NUMBERS | parts)
