"""`rm-toolkit serve-command MODEL`: the commands that serve or benchmark this model elsewhere, and its example."""

from __future__ import annotations

import argparse

from ..errors import InputError, name_list


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    add = parser.add_argument
    add(
        "model",
        metavar="MODEL",
        nargs="?",
        help="folder or Hub id (also ID@REVISION) of a reward model; its weights are not read",
    )
    add("--model", metavar="MODEL", dest="named_model", help="the same, as the other commands have it")
    add(
        "--server",
        choices=("vllm", "sglang", "rewardbench"),
        help="print only the command of this program, for a script",
    )
    add(
        "--write-example",
        action="store_true",
        help="score an example here and store it in the folder; `--endpoint` checks a server with it; needs the weights",
    )


def run(args: argparse.Namespace) -> None:
    """Prints one command per program, or the reason why the program cannot read the model."""
    from ..scoring.example import ScoredExample, example_text, write_example
    from ..scoring.scorer import RewardScorer
    from ..scoring.serving import SERVERS, find_commands

    given = [model for model in (args.model, args.named_model) if model is not None]
    if len(given) != 1:
        raise InputError(
            f"{len(given)} models are given ({name_list(given)}); `serve-command` takes one."
            if given
            else "no model is given. Example: rm-toolkit serve-command outputs/grft"
        )
    (model,) = given
    commands = find_commands(model)
    if args.write_example:
        scorer = RewardScorer(model, device="cpu")
        prompt, completion = example_text(scorer.settings.data_format)
        write_example(model, ScoredExample(prompt, completion, *scorer.score([prompt], [completion])))
    if args.server is not None:
        command = commands[args.server]
        if command.reason:
            raise InputError(f"{SERVERS[args.server]} cannot serve '{model}'. {command.reason}")
        print(command.line)
        return
    for server, title in SERVERS.items():
        command = commands[server]
        print(f"# {title}" + (f" cannot: {command.reason}" if command.reason else ""))
        if not command.reason:
            print(command.line)
