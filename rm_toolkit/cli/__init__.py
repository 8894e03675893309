"""`rm-toolkit COMMAND …`: finds the command, imports only that one, and shows a user's mistake without a traceback."""

from __future__ import annotations

import sys
from collections.abc import Sequence


# Each command is a module with `add_arguments(parser)`, `run(args)`, and `outputs(args)` if it writes. Only the one asked
# for is imported, so that `rm-toolkit --help` does not wait for torch.
COMMANDS = {
    "build-data": ("rm_toolkit.cli.build_data", "raw preference data -> Arrow datasets for TRL"),
    "inspect": ("rm_toolkit.cli.inspect", "preference data -> counts, lengths, overlaps, distinctive words"),
    "collect": ("rm_toolkit.cli.collect", "instructions x domains -> a language model's answers as DSP data"),
    "doubt": ("rm_toolkit.cli.doubt", "a recipe -> training pairs whose labels out-of-fold models contradict"),
    "push-data": ("rm_toolkit.cli.push_data", "a built dataset -> the Hugging Face Hub"),
    "doctor": ("rm_toolkit.cli.doctor", "this machine (and a recipe) -> what works here, and what is missing"),
    "plan": ("rm_toolkit.cli.plan", "recipe + launch config -> memory per GPU, steps, hours: does it fit?"),
    "watch": ("rm_toolkit.cli.watch", "the folder of a run -> a live page of its progress"),
    "evaluate": ("rm_toolkit.cli.evaluate", "reward models x test sets -> metrics, a report to browse, figures"),
    "calibrate": ("rm_toolkit.cli.calibrate", "a reward model + held-out pairs -> calibrated probabilities"),
    "score": ("rm_toolkit.cli.score", "prompts, each with any number of completions -> their rewards"),
    "serve-command": (
        "rm_toolkit.cli.serve_command",
        "a reward model -> the commands that serve it in vLLM or sglang",
    ),
    "merge": ("rm_toolkit.cli.merge", "general + customized reward models -> one between them"),
    "push": ("rm_toolkit.cli.push", "a trained reward model -> the Hugging Face Hub"),
}
TASKS = {
    "prepare data": ("build-data", "inspect", "collect", "doubt", "push-data"),
    "train": ("doctor", "plan", "watch"),
    "judge": ("evaluate", "calibrate"),
    "use and publish": ("score", "serve-command", "merge", "push"),
}
# Training is not a command of this program: `accelerate launch` starts one process per device.
RECIPES = {
    "accelerate launch recipes/grft.py": "general preferences -> a general reward model",
    "accelerate launch recipes/crft.py --domain NAME": "that model + one domain -> a customized one",
}


def main(argv: Sequence[str] | None = None) -> int:
    """
    Runs one command. Returns the exit code: 0; 2 for a mistake in the input or a disk that cannot be written; 130 or 143
    after Ctrl-C or SIGTERM; 1 for a bug in the toolkit. An error is printed as one line.
    """
    try:
        # Imported here, so that Ctrl-C is one line from the beginning.
        from ..output.ending import ending_of, forget_stdout
        from ..output.places import about
        from ..output.process_files import named_temporary_files
        from ..output.stop_signals import terminable

        try:
            with terminable(to_the_end=argv is None), named_temporary_files():
                try:
                    return _run(list(sys.argv[1:] if argv is None else argv))
                finally:
                    with about("standard output"):
                        sys.stdout.flush()
        except SystemExit:
            raise
        except BaseException as error:
            ending = ending_of(error)
    except KeyboardInterrupt:  # before the handler was installed, or a second time
        print("stopped by Ctrl-C.", file=sys.stderr)
        return 130
    if ending.message is not None:
        print(ending.message, file=sys.stderr)
    forget_stdout()
    return ending.code


def _overview() -> str:
    """Every command in one line, by task."""
    blocks = []
    for task, names in TASKS.items():
        lines = [f"{task}:"]
        if task == "train":
            lines += [f"  {command}\n{'':<17}{summary}" for command, summary in RECIPES.items()]
        lines += [f"  {name:<14} {COMMANDS[name][1]}" for name in names]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _run(argv: list[str]) -> int:
    import contextlib
    import importlib
    import os

    from .. import __version__
    from ..errors import did_you_mean, name_list
    from ..output.lock import WriterLock
    from ..output.places import about
    from ..output.progress import hide_bars_of_libraries
    from ..output.redaction import redact
    from .options import Parser

    parser = Parser(
        prog="rm-toolkit",
        usage="rm-toolkit COMMAND [options]",
        description="Train, judge and publish reward models for your own preferences.",
        epilog=f"{_overview()}\n\n`rm-toolkit COMMAND --help` lists the options of a command.",
    )
    parser.add_argument("--version", action="version", version=f"rm-toolkit {__version__}")
    if not argv or argv[0].startswith("-"):
        parser.parse_args(argv)
        parser.print_help()
        return 0
    name, rest = argv[0], argv[1:]
    if name not in COMMANDS:
        known = name_list(COMMANDS)
        print(f"error: '{name}' is not a command; there are {known}.{did_you_mean(name, COMMANDS)}", file=sys.stderr)
        return 2
    module_name, summary = COMMANDS[name]
    hide_bars_of_libraries()
    os.environ.setdefault("TQDM_DELAY", "1")  # no bar for less than a second of work; read when tqdm is imported
    module = importlib.import_module(module_name)
    command = Parser(prog=f"rm-toolkit {name}", description=summary)
    module.add_arguments(command)
    command.finish()
    if not getattr(module, "TAKES_RECIPE_FLAGS", False):
        command.refuse_unknown(rest)
    args, unknown = command.parse_known_args(rest)
    if unknown and not getattr(module, "TAKES_RECIPE_FLAGS", False):
        command.error(f"unrecognized arguments: {' '.join(unknown)}")
    args.recipe_flags = unknown
    args.command_line = redact(["rm-toolkit", *argv])  # it goes into reports
    from ..models.hub_client import bound_hub_client  # not at the top: `--help` need not wait for it

    bound_hub_client()
    with contextlib.ExitStack() as held:
        for output in module.outputs(args) if hasattr(module, "outputs") else ():
            held.enter_context(WriterLock(output))
        if hasattr(args, "cache_dir"):
            held.enter_context(about(args.cache_dir))
        module.run(args)
    return 0
