"""`rm-toolkit plan`: what a run needs, from its recipe and its launch config; nothing is loaded."""

from __future__ import annotations

import argparse

from ..output.ranges import MANY, Number
from .options import COUNT


# What the parser does not know is a setting of the recipe.
TAKES_RECIPE_FLAGS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.epilog = "Any setting of the recipe can be given as a flag too, as at `accelerate launch`: --max_length 256"
    parser.allow_abbrev = False
    add = parser.add_argument
    add("--config", required=True, metavar="FILE", help="the recipe")
    add("--accelerate-config", required=True, metavar="FILE", help="the launch config, of accelerate_configs/")
    add("--gpu-memory", metavar="SIZE", help="memory of each GPU, like 80GiB (default: of the GPU here)")
    add("--host-memory", metavar="SIZE", help="memory of each machine, like 512GiB (default: of this one)")
    add("--text-length", type=COUNT, help="tokens of each text (default: the largest, max_length)")
    add("--pairs", type=Number(1, 10**12, whole=True), help="training pairs of an epoch, for steps and hours")
    add(
        "--tokens-per-pair",
        type=Number(1, MANY),
        help="tokens computed for a pair (default: two texts of the length above)",
    )
    add(
        "--tflops",
        type=Number(0, 1e9, above=True),
        help="peak of one GPU in the run's precision, in 1e12 operations a second, for hours",
    )
    add(
        "--utilisation",
        type=Number(0, 1, above=True),
        default=0.4,
        help="part of that peak that is reached (default 0.4)",
    )


def run(args: argparse.Namespace) -> None:
    """Prints the plan. That a run does not fit is an answer, not an error: the exit code is 0."""
    from ..output.console import console
    from ..training.plan.launch import read_launch
    from ..training.plan.plan import launched_precision, make_plan
    from ..training.plan.report import found_memory, parse_size, print_plan, run_length
    from ..training.recipe import parse_recipe, read_values

    launch = read_launch(args.accelerate_config)
    values = read_values(args.config, args.recipe_flags)
    on_cpu = launch.on_cpu or bool(values["use_cpu"])
    precision = launched_precision(values["bf16"], bool(values["fp16"]), on_cpu)
    # What only a GPU honours would be refused here, where there may be none.
    flags = ["--use_cpu", "true", "--bf16", "false", "--fp16", "false"] + ["--tf32", "false"] * bool(values["tf32"])
    recipe, training, model = parse_recipe(args.config, [*args.recipe_flags, *flags])
    plan = make_plan(recipe, training, model, launch, precision=precision, text_length=args.text_length)
    gpu, host = found_memory(launch.on_cpu)
    gpu = parse_size(args.gpu_memory, "--gpu-memory") if args.gpu_memory else gpu
    host = parse_size(args.host_memory, "--host-memory") if args.host_memory else host
    print_plan(plan, gpu, host)
    tokens = args.tokens_per_pair or 2.0 * min(args.text_length or training.max_length, training.max_length)
    lines = run_length(
        plan,
        pairs=args.pairs,
        steps=training.max_steps,
        epochs=training.num_train_epochs,
        tokens_per_pair=tokens,
        tflops=args.tflops,
        utilization=args.utilisation,
    )
    for line in lines:
        console.print(line)
