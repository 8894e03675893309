"""`rm-toolkit doctor`: what is installed, what works here, and what a recipe would need."""

from __future__ import annotations

import argparse


# Unknown arguments are settings of the recipe.
TAKES_RECIPE_FLAGS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.epilog = "Any setting of the recipe can also be given as a flag, as with `accelerate launch`: --bf16 false"
    parser.allow_abbrev = False
    add = parser.add_argument
    add("--config", metavar="FILE", help="a recipe: lists what its run needs and is missing here")
    add("--accelerate-config", metavar="FILE", help="launch config of the run, from accelerate_configs/")


def run(args: argparse.Namespace) -> None:
    """Prints packages, engines and kernels; with a recipe or a launch config, what is missing, and exit code 2 if anything is."""
    from ..errors import InputError
    from ..training.doctor.machine import this_machine
    from ..training.doctor.packages import installed, wanted_packages
    from ..training.doctor.recipe_needs import (
        computes_on_cpu,
        missing_for_launch,
        missing_for_recipe,
        takes_cpu,
    )
    from ..training.doctor.report import print_machine, print_missing, print_packages
    from ..training.plan.launch import read_launch

    def has(name: str) -> bool:
        return installed(name) is not None

    if args.recipe_flags and not args.config:
        raise InputError(
            f"'{args.recipe_flags[0]}' is a setting of a recipe, but no recipe is given: add --config FILE."
        )
    machine = this_machine()
    launch = read_launch(args.accelerate_config) if args.accelerate_config else None
    print_machine(machine, has)
    print_packages(wanted_packages())
    if not (args.config or launch):
        return
    missing = missing_for_launch(machine, launch, has) if launch else []
    if args.config:
        on_cpu = takes_cpu(machine, launch)
        missing += missing_for_recipe(machine, args.config, args.recipe_flags, on_cpu=on_cpu, has=has)
    note = ""
    if launch and computes_on_cpu(machine, launch) and not launch.on_cpu:
        note = f"{args.accelerate_config} is for GPUs; there is none here, so its processes compute on the CPU"
    print_missing(args.config or args.accelerate_config, missing, note)
