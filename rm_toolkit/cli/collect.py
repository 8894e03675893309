"""`rm-toolkit collect`: instructions x domains -> answers of a language model in the DSP format."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..output.ending import hint_if_stopped
from .options import COUNT, PLACE, SEED, OrNone


if TYPE_CHECKING:
    from ..collection.collect import Collected
    from ..collection.domains import Domain
    from ..collection.instructions import Selection

KEEPABLE = ("refusal", "truncated", "length", "alike")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    from ..collection import number_ranges as ranges

    parser.epilog = (
        "example:\n  rm-toolkit collect --input alpaca_data.json --no-input --num 13000 --domains data/domains.yaml \\\n"
        "      --base-url http://localhost:8000/v1 --model Qwen/Qwen3-8B --output outputs/data/dsp.json\n\n"
        "The API key is the environment variable OPENAI_API_KEY. Stopped or killed? The same command continues: it "
        "asks only\n"
        "what the journal beside the output does not have. Exit code 1: some questions still have no answer."
    )
    add = parser.add_argument
    add("--input", required=True, metavar="FILE", help="Alpaca rows, text lines (.txt), a saved dataset or a Hub id")
    add("--domains", required=True, metavar="YAML", help="names and system prompts, such as data/domains.yaml")
    add(
        "--base-url", required=True, metavar="URL", help="OpenAI-compatible endpoint, such as http://localhost:8000/v1"
    )
    add("--model", required=True, help="name of the model at the endpoint")
    add("--output", type=PLACE, required=True, metavar="FILE.json", help="DSP file; journal and report go beside it")
    choice = parser.add_argument_group("which instructions")
    choice.add_argument("--num", type=COUNT, help="how many (default: all); a later, larger N keeps those asked")
    choice.add_argument("--seed", type=SEED, default=0, help="seed of the choice (default 0)")
    choice.add_argument("--no-input", action="store_true", help="skip those with an input field, as the DSP data does")
    choice.add_argument(
        "--columns", nargs="+", default=[], metavar="OURS=THEIRS", help="instruction=question output=answer …"
    )
    choice.add_argument("--skip-invalid", action="store_true", help="leave out rows that cannot be used")
    sampling = parser.add_argument_group("how they are answered ('none' leaves a setting to the endpoint)")
    sampling.add_argument("--temperature", type=OrNone(ranges.TEMPERATURE), default=1.0, help="default 1")
    sampling.add_argument("--top-p", type=OrNone(ranges.TOP_P), help="default: the endpoint's")
    sampling.add_argument(
        "--max-tokens", type=OrNone(ranges.MAX_TOKENS), default=1024, help="of an answer (default 1024)"
    )
    sampling.add_argument("--sampling-seed", type=OrNone(ranges.SAMPLING_SEED), default=0, help="default 0")
    sampling.add_argument("--extra-body", metavar="JSON", help='more fields for each request, such as {"top_k": 40}')
    asking = parser.add_argument_group("how they are asked")
    asking.add_argument("--concurrency", type=ranges.CONCURRENCY, default=8, help="requests at a time (default 8)")
    asking.add_argument("--timeout", type=ranges.TIMEOUT, default=120.0, help="seconds for one answer (default 120)")
    asking.add_argument("--max-retries", type=ranges.MAX_RETRIES, default=6, help="retries of a question (default 6)")
    asking.add_argument(
        "--api-key-env", default="OPENAI_API_KEY", metavar="NAME", help="environment variable of the key"
    )
    filters = parser.add_argument_group("which rows are kept (no question is asked again)")
    filters.add_argument("--keep", nargs="+", default=[], choices=KEEPABLE, help="filters to turn off")
    filters.add_argument(
        "--refusal-patterns", metavar="FILE", help="further refusal patterns (regular expressions), one per line"
    )
    filters.add_argument(
        "--max-similarity", type=ranges.MAX_SIMILARITY, default=0.9, help="of two answers, at most (default 0.9)"
    )
    filters.add_argument(
        "--length-outliers",
        type=ranges.LENGTH_OUTLIERS,
        default=5.0,
        help="robust z-score of the log length, at most (default 5)",
    )
    add("--overwrite", action="store_true", help="replace the output, and a journal with other settings")


def outputs(args: argparse.Namespace) -> list[Path]:
    """Paths that only one process may write at a time."""
    return [args.output]


def run(args: argparse.Namespace) -> None:
    """Asks, prints the counts, and exits with code 1 if a question has no answer."""
    from ..collection.domains import load_domains
    from ..collection.endpoint import Endpoint, Sampling, parse_extra_body
    from ..collection.filters import FilterOptions
    from ..collection.instructions import select_instructions
    from ..collection.refusal_patterns import load_patterns
    from .build_data import parse_columns

    domains = load_domains(args.domains)
    filters = FilterOptions(
        keep=tuple(args.keep),
        refusal_patterns=load_patterns(args.refusal_patterns) if args.refusal_patterns else (),
        max_similarity=args.max_similarity,
        length_outliers=args.length_outliers,
    )
    sampling = Sampling(
        model=args.model,
        temperature=args.temperature,
        top_p=args.top_p,
        max_tokens=args.max_tokens,
        seed=args.sampling_seed,
        extra_body=parse_extra_body(args.extra_body) if args.extra_body else None,
    )
    endpoint = Endpoint(
        args.base_url,
        sampling,
        api_key_env=args.api_key_env,
        timeout=args.timeout,
        max_retries=args.max_retries,
    )
    selection = select_instructions(
        args.input,
        columns=parse_columns(args.columns),
        num=args.num,
        seed=args.seed,
        no_input=args.no_input,
        skip_invalid=args.skip_invalid,
    )
    _collect(args, selection, domains, endpoint, filters)


def _collect(args: argparse.Namespace, selection: Selection, domains: list[Domain], endpoint, filters) -> None:
    from ..collection.collect import collect
    from ..output.console import console

    left_out = [f"{number:,} {reason}" for reason, number in selection.counts.items() if number and reason != "read"]
    console.print(
        f"{len(selection.instructions):,} instructions of {selection.counts['read']:,} rows"
        f"{' (left out: ' + ', '.join(left_out) + ')' if left_out else ''} x {len(domains)} domains",
    )
    with hint_if_stopped("Every answer so far is in the journal; the same command continues from there."):
        found = collect(
            selection,
            domains,
            endpoint,
            args.output,
            filters,
            concurrency=args.concurrency,
            overwrite=args.overwrite,
        )
    show(found, domains, own_answers=any(entry.answer for entry in selection.instructions))
    if found.num_answers < found.num_questions:
        raise SystemExit(1)


def show(found: Collected, domains: list[Domain], own_answers: bool) -> None:
    """Prints what the filters left out, what failed, and what to do next."""
    from ..collection.domains import NORMAL
    from ..collection.filters import REASONS
    from ..output.console import console, print_table

    counts = found.counts
    names = [domain.name for domain in domains] + ([NORMAL] if own_answers else [])
    rows = [[name, *(f"{counts.answers[reason][name]:,}" for reason in REASONS)] for name in names]
    rows.append(["rows left out", *(f"{counts.rows[reason]:,}" for reason in REASONS)])
    print_table(["answers", *REASONS], rows)
    if found.torn:
        console.print("The journal ended in half a line because a run was killed; that question was asked again.")
    tokens = f"{found.tokens['prompt']:,} prompt and {found.tokens['completion']:,} completion tokens"
    console.print(
        f"{found.num_answers:,} of {found.num_questions:,} answers, {found.outcome.answered:,} of them new; {tokens}.",
    )
    console.print(
        f"wrote {found.files['output']}: {counts.kept:,} rows of {found.complete:,} with an answer in every domain",
    )
    missing = found.num_questions - found.num_answers
    if missing:
        for kind, number in found.outcome.failures.most_common():
            console.print(f"failed: {number:,} x {kind}: {found.outcome.examples[kind]}")
        gave_up = f" ({found.outcome.not_asked:,} not asked after so many failures in a row)"
        console.print(
            f"{missing:,} questions have no answer{gave_up if found.outcome.not_asked else ''}. "
            "The same command asks them again, and only them.",
        )
