"""`rm-toolkit plan`: what a run needs, from its recipe and its launch config, without loading anything."""

from __future__ import annotations

import argparse

from ..output.ranges import MANY, Number
from .options import COUNT


# Unknown arguments are settings of the recipe.
TAKES_RECIPE_FLAGS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.epilog = (
        "Any setting of the recipe can also be given as a flag, as with `accelerate launch`: --max_length 256"
    )
    parser.allow_abbrev = False
    add = parser.add_argument
    add("--config", required=True, metavar="FILE", help="the recipe")
    add("--accelerate-config", required=True, metavar="FILE", help="the launch config, from accelerate_configs/")
    add("--gpu-memory", metavar="SIZE", help="memory of each GPU, like 80GiB (default: that of this machine's GPU)")
    add("--host-memory", metavar="SIZE", help="memory of each machine, like 512GiB (default: that of this machine)")
    add("--text-length", type=COUNT, help="tokens per text (default: max_length, the largest)")
    add("--pairs", type=Number(1, 10**12, whole=True), help="training pairs per epoch, for steps and hours")
    add(
        "--tokens-per-pair",
        type=Number(1, MANY),
        help="tokens computed per pair (default: two texts of --text-length)",
    )
    add(
        "--tflops",
        type=Number(0, 1e9, above=True),
        help="peak of one GPU in the run's precision, in TFLOP/s, for hours",
    )
    add(
        "--utilisation",
        type=Number(0, 1, above=True),
        default=0.4,
        help="fraction of that peak that is reached (default 0.4)",
    )


def run(args: argparse.Namespace) -> None:
    """Prints the plan. The exit code is 0 even if the run does not fit: that is an answer, not an error."""
    from ..output.console import console
    from ..training.plan.launch import read_launch
    from ..training.plan.plan import launched_precision, make_plan
    from ..training.plan.report import found_memory, parse_size, print_plan, run_length
    from ..training.recipe import parse_recipe, read_values

    launch = read_launch(args.accelerate_config)
    values = read_values(args.config, args.recipe_flags)
    on_cpu = launch.on_cpu or bool(values["use_cpu"])
    precision = launched_precision(values["bf16"], bool(values["fp16"]), on_cpu)
    # Settings that need a GPU would be refused here, where there may be none.
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
    if args.tokens_per_pair is None and len(lines) > 1:
        console.print(
            f"Tokens: {tokens:g} a pair are two texts of the greatest length, an upper bound; pass --tokens-per-pair, "
            "what is really computed (`rm-toolkit inspect --tokenizer` shows the lengths of your texts)."
        )
