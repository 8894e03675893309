"""`rm-toolkit evaluate --model DIR … --datasets NAME=SPEC … --output DIR`: metrics, a report and figures."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..output.ranges import MANY, Number
from .options import COUNT, DEVICE, PLACE, RESAMPLES, SEED


if TYPE_CHECKING:
    from ..evaluation.evaluator import Evaluation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.epilog = (
        "example:\n  rm-toolkit evaluate --model outputs/grft outputs/crft-literature --output outputs/report \\\n"
        "      --datasets literature='{path: data/samples/dsp.test.json, source: dsp, domain: literature}'\n\n"
        "Any transformers sequence classifier with one label is a reward model here; the first model is the baseline of\n"
        "the comparison. DIR/report.html shows the result and every pair in a browser, DIR/report.md the result\n"
        "as text; DIR/metrics.json holds every number, DIR/pairs.parquet every pair."
    )
    add = parser.add_argument
    add(
        "--model",
        nargs="+",
        required=True,
        metavar="MODEL",
        help="folder or Hub id (also ID@REVISION) of a reward model; NAME=DIR gives it a name",
    )
    add(
        "--datasets",
        nargs="+",
        required=True,
        metavar="NAME=SPEC",
        help="test sets: a built folder, a Hub id, or '{path: FILE, source: dsp, …}' with the keys of a recipe",
    )
    add("--output", type=PLACE, required=True, metavar="DIR", help="folder for the report, the page and the pairs")
    add("--split", default="test", help="split to use where a SPEC names none (default test)")
    add(
        "--seed",
        type=SEED,
        default=0,
        help="seed of the bootstrap, and of fractions and `test_size` splits; use the seed of the run (default 0)",
    )
    add("--resamples", type=RESAMPLES, default=2000, help="bootstrap resamples of the prompts (default 2000)")
    add(
        "--doubts",
        type=Number(0, MANY, whole=True),
        default=0,
        help="also list, per model and set, the N pairs whose label the model contradicts most, in doubts.jsonl "
        "(default 0)",
    )
    _add_computing(parser)
    add("--cache-dir", help="cache of the datasets library (default: its own)")
    add("--overwrite", action="store_true", help="replace an earlier report")


def _add_computing(parser: argparse.ArgumentParser) -> None:
    """Where and how rewards are computed."""
    add = parser.add_argument
    add(
        "--endpoint",
        nargs="+",
        default=[],
        metavar="URL",
        help="vLLM or sglang server that holds the model; weights are then not read here; NAME=URL for each of "
        "several models",
    )
    add("--device", type=DEVICE, help="where to compute, such as cuda:1 (default: a GPU where there is one)")
    add(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="precision of the weights, here or on the server",
    )
    add("--tokens-per-batch", type=COUNT, default=16384, help="padded tokens computed at once (default 16384)")
    add(
        "--chat-date",
        metavar="DATE",
        help="YYYY-MM-DD, for chat templates that ask for the date, if the model has none stored",
    )
    add("--trust-remote-code", action="store_true", help="run Python code that comes with a model")


def outputs(args: argparse.Namespace) -> list[Path]:
    """Paths that only one process may write at a time."""
    return [args.output]


def run(args: argparse.Namespace) -> None:
    """Evaluates, writes the report, prints the accuracies."""
    from ..data.specs import parse_named_specs
    from ..errors import InputError
    from ..evaluation.evaluator import check_report_folder, name_models

    for name in ("resamples", "tokens_per_batch"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} is {getattr(args, name)}; it must be at least 1.")
    specs = parse_named_specs(args.datasets, "--datasets")
    models = name_models(args.model)
    endpoints = parse_endpoints(args.endpoint, list(models))
    check_report_folder(args.output, args.overwrite)

    import torch

    from ..evaluation import evaluate
    from ..output.console import console

    found = evaluate(
        models,
        specs,
        split=args.split,
        seed=args.seed,
        resamples=args.resamples,
        device=args.device,
        dtype=getattr(torch, args.dtype),
        tokens_per_batch=args.tokens_per_batch,
        endpoints=endpoints,
        chat_date=args.chat_date,
        trust_remote_code=args.trust_remote_code,
        cache_dir=args.cache_dir,
    )
    found.metrics["command"] = args.command_line
    found.doubts = args.doubts
    found.save(args.output, overwrite=args.overwrite)
    show(found)
    written = "report.html, report.md, metrics.json, pairs.parquet, figures/"
    console.print(f"wrote {args.output}: {written}" + (", doubts.jsonl" if args.doubts else ""))


def parse_endpoints(given: list[str], models: list[str]) -> dict[str, str]:
    """
    Reads `--endpoint`: an address for the one model, or `NAME=URL` for each that a server holds.

    Raises:
        `InputError`: if it is not known which model one is for.
    """
    from ..errors import InputError, name_list

    endpoints: dict[str, str] = {}
    for text in given:
        name, equals, address = text.partition("=")
        if not equals or "/" in name:  # only an address
            if len(models) != 1:
                raise InputError(
                    f"--endpoint {text}: there are several models; write NAME=URL, with NAME one of {name_list(models)}."
                )
            name, address = models[0], text
        if name not in models:
            raise InputError(f"--endpoint {text}: no model is named '{name}'; there are {name_list(models)}.")
        if name in endpoints:
            raise InputError(f"--endpoint {text}: the model '{name}' is given twice.")
        endpoints[name] = address
    return endpoints


def show(found: Evaluation) -> None:
    """Prints every model's accuracy on every test set, and its paired difference to the first, with their intervals."""
    from ..output.console import print_table

    results = found.metrics["results"]
    first = next(iter(results))
    differences = {
        (row["second"], row["dataset"]): row for row in found.metrics["differences"] if row["first"] == first
    }
    rows = [
        [
            test,
            name,
            half_width(own[test]["accuracy"]),
            half_width(differences[name, test], "+") if (name, test) in differences else "",
            f"{own[test]['num_pairs']:,}",
        ]
        for test in found.metrics["datasets"]
        for name, own in results.items()
    ]
    header = ["test set", "model", "accuracy", f"minus {first}", "pairs"]
    if len(results) == 1:
        header, rows = header[:3] + header[4:], [row[:3] + row[4:] for row in rows]
    print_table(header, rows)


def half_width(value: dict[str, float | None], sign: str = "") -> str:
    """`0.812 ± 0.022`, with half of the 95% interval, which the report gives in full; without it if there is none."""
    text = f"{value['value']:{sign}.3f}"
    return text if value.get("low") is None else f"{text} ± {(value['high'] - value['low']) / 2:.3f}"
