"""`rm-toolkit score --model … --input … --output …`: prompts with any number of completions -> their rewards."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..output.ending import hint_if_stopped
from .options import COUNT, DEVICE, PLACE


DTYPES = ("float32", "bfloat16", "float16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    from ..data.number_ranges import WINDOW
    from ..data.templates import TEMPLATES

    add = parser.add_argument
    add(
        "--model",
        required=True,
        metavar="DIR",
        help="folder or Hub id (also ID@REVISION) of a reward model or an adapter",
    )
    add("--input", required=True, metavar="FILE", help="JSON Lines (also .gz), Parquet, or a saved dataset")
    add("--output", required=True, type=PLACE, metavar="FILE", help="JSON Lines: the rows in order, with `reward`")
    add("--prompt-column", default="prompt", metavar="NAME", help="column: string or messages (default: prompt)")
    add("--no-prompt", action="store_true", help="the completions are whole texts or dialogues")
    add(
        "--completion-column",
        metavar="NAME",
        help="column: one completion or a list (default: completion, completions, response or responses)",
    )
    add("--reward-column", default="reward", metavar="NAME", help="column to add (default: reward)")
    add("--template", choices=TEMPLATES, default="none", help="text put around a plain-text prompt (default: none)")
    add(
        "--adapter",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="adapter of a domain, trained on the model; can be repeated",
    )
    add("--domain-column", metavar="NAME", help="column with the adapter name of each row; null: the model itself")
    add("--domain", metavar="NAME", help="the one adapter for all rows")
    add(
        "--endpoint",
        metavar="URL",
        help="vLLM or sglang server that holds the model (see `rm-toolkit serve-command`); no weights are read here",
    )
    add("--device", type=DEVICE, help="cpu, cuda, cuda:1, … (default: a GPU where there is one)")
    add(
        "--dtype",
        choices=DTYPES,
        default="float32",
        help="precision of the weights, also on a server (default: float32)",
    )
    add(
        "--tokens-per-batch",
        type=COUNT,
        metavar="N",
        help="tokens computed at once or per request (default: 16384 on a GPU and for a server, else 4096)",
    )
    add("--window", type=WINDOW, default=2048, metavar="N", help="rows sorted and written at once (default 2048)")
    add(
        "--chat-date",
        metavar="DATE",
        help="YYYY-MM-DD, for a chat template that asks for the date, if the model has none stored",
    )
    add("--calibrated", action="store_true", help="also the probability that each completion beats another of its row")
    add("--skip-invalid", action="store_true", help="leave out rows that cannot be used, and count them")
    add("--overwrite", action="store_true", help="replace the output of another run")
    add("--trust-remote-code", action="store_true", help="run Python code that comes with the model")


def outputs(args: argparse.Namespace) -> list[Path]:
    """Paths that only one process may write at a time."""
    return [args.output] if args.output.parent.is_dir() else []  # the folder is not created


def run(args: argparse.Namespace) -> None:
    """Scores the file; a run that was stopped is continued."""
    adapters = parse_adapters(args.adapter)
    check(args, adapters)
    import torch
    from transformers.utils import logging

    from ..data.records import RecordFile, looks_like_hub_id, missing_file
    from ..scoring.files import date_of_earlier_run, model_identity, score_file
    from ..scoring.rows import ScoreOptions
    from ..scoring.scorer import RewardScorer

    if not Path(args.input).exists() and not looks_like_hub_id(args.input):
        raise missing_file(args.input)
    options = ScoreOptions(
        prompt_column=None if args.no_prompt else args.prompt_column,
        completion_column=args.completion_column,
        domain_column=args.domain_column,
        reward_column=args.reward_column,
        template=args.template,
        window=args.window,
        skip_invalid=args.skip_invalid,
        domain=args.domain,
    )
    logging.disable_progress_bar()
    identity = model_identity(args.model, args.dtype, adapters, served=args.endpoint is not None)
    scorer = RewardScorer(
        args.model,
        adapters=adapters,
        endpoint=args.endpoint,
        device=args.device,
        dtype=getattr(torch, args.dtype),
        tokens_per_batch=args.tokens_per_batch,
        chat_date=args.chat_date or date_of_earlier_run(args.output, identity, overwrite=args.overwrite),
        trust_remote_code=args.trust_remote_code,
        calibrated=args.calibrated,
    )
    with hint_if_stopped(f"The same command continues from {args.output}.partial."):
        summary = score_file(
            scorer,
            identity,
            RecordFile(args.input),
            args.output,
            options,
            overwrite=args.overwrite,
        )
    report(args.output, summary)


def parse_adapters(pairs: list[str]) -> dict[str, str]:
    """Splits `NAME=DIR` arguments; raises an `InputError` for anything else, and for a name given twice."""
    adapters: dict[str, str] = {}
    for pair in pairs:
        name, equals, folder = pair.partition("=")
        if not (name and equals and folder):
            raise InputError(f"--adapter {pair}: write NAME=DIR, for example law=outputs/crft-law/adapter.")
        if name in adapters:
            raise InputError(f"--adapter {pair}: the name '{name}' is given twice.")
        adapters[name] = folder
    return adapters


def check(args: argparse.Namespace, adapters: dict[str, str]) -> None:
    """Raises an `InputError` for arguments that do not go together."""
    if adapters and not (args.domain_column or args.domain):
        raise InputError("--adapter: choose the rows of each adapter with --domain-column NAME or --domain NAME.")
    if args.domain_column and args.domain:
        raise InputError("--domain-column and --domain are both given; give one of them.")
    if (args.domain_column or args.domain) and not adapters:
        raise InputError("a domain is given but no adapter; add --adapter NAME=DIR for each domain.")
    for name in ("window", "tokens_per_batch"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} is {getattr(args, name)}; it must be at least 1.")
    if args.output.suffix in (".gz", ".parquet"):
        raise InputError(
            f"--output {args.output}: the output is JSON Lines, not {args.output.suffix}; use the ending .jsonl."
        )
    if args.output.exists() and Path(args.input).exists() and args.output.samefile(args.input):
        raise InputError(f"--output {args.output} is the input file; name another file.")


def report(output: Path, summary: Any) -> None:
    """Prints what was done."""
    if summary.invalid:
        print(f"left out {summary.invalid:,} rows that cannot be used; the first:", file=sys.stderr)
        for line in summary.first_invalid:
            print(f"  {line}", file=sys.stderr)
    resumed = f", {summary.resumed_at:,} of them by an earlier run" if summary.resumed_at else ""
    print(
        f"{output}: {summary.rows:,} rows{resumed}, {summary.completions:,} rewards, "
        f"mean {summary.mean:.4f}, standard deviation {summary.std:.4f}"
    )
