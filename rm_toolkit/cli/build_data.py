"""`rm-toolkit build-data SOURCE --input … --output DIR`: raw preference data -> Arrow datasets for TRL."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError


if TYPE_CHECKING:
    from ..data.build import BuildResult


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    from ..data.schema import FORMATS, SHAPES
    from ..data.sources import SOURCES
    from ..data.templates import TEMPLATES

    overview = "\n".join(f"  {name:<12} {source.summary}" for name, source in SOURCES.items())
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = f"sources:\n{overview}"
    add = parser.add_argument
    add("source", help="raw format of the input, see below")
    add("--input", nargs="+", required=True, metavar="FILE", help="file, folder or Hub id; or train=FILE test=FILE")
    add("--output", type=Path, metavar="DIR", help="folder for the built dataset")
    add("--layout", choices=SHAPES, help="chosen/rejected pairs (default), or one ranked row a prompt")
    add("--format", choices=FORMATS, default="text", help="strings (default), or lists of messages")
    add("--domain", help="dsp: whose answers are preferred; hh folder: helpful or harmless; others: a tag of the rows")
    add("--template", choices=TEMPLATES, help="what stands around a plain-text prompt in the text format")
    add(
        "--columns",
        nargs="+",
        default=[],
        metavar="OURS=THEIRS",
        help="jsonl, preference: prompt=question chosen=good …",
    )
    add("--ignore-columns", nargs="+", default=[], metavar="NAME", help="read the input as if it had no such columns")
    add("--strip-citations", action="store_true", help="webgpt: remove marks like [1] from the answers")
    add(
        "--test-size",
        type=float,
        default=0.1,
        help="fraction or number of the prompts held out; 0: none (default 0.1)",
    )
    add("--seed", type=int, default=0, help="seed of that split (default 0)")
    add("--skip-invalid", action="store_true", help="leave out records that cannot be used, and count them")
    add("--export", nargs=2, metavar=("text-score", "FILE"), help="also write the original work's format, not cleaned")
    add("--license", help="licence of the data, kept beside it")
    add("--num-proc", type=int, help="processes for cleaning (default 1)")
    add("--cache-dir", help="cache of the datasets library (default: its own)")
    add("--overwrite", action="store_true", help="replace an output that an earlier build wrote")


def outputs(args: argparse.Namespace) -> list[Path]:
    """What one process at a time writes."""
    return [Path(output) for output in (args.output, args.export and args.export[1]) if output]


def run(args: argparse.Namespace) -> None:
    """Builds, shows what cleaning did, saves."""
    from ..data.build import BuildOptions, build, check_built_folder, save
    from ..data.export import EXPORT_KINDS, export_text_score
    from ..data.schema import check_choice

    if args.output is None and args.export is None:
        raise InputError("nothing to write: pass --output DIR, --export text-score FILE, or both.")
    options = BuildOptions(
        domain=args.domain,
        columns=parse_columns(args.columns),
        ignore_columns=tuple(args.ignore_columns),
        strip_citations=args.strip_citations,
        template=args.template,
        layout=args.layout or "pairs",
        format=args.format,
        test_size=args.test_size,
        seed=args.seed,
        skip_invalid=args.skip_invalid,
        num_proc=args.num_proc,
        cache_dir=args.cache_dir,
    )
    if args.export is not None:
        check_choice("export", args.export[0], EXPORT_KINDS)
    if args.output is not None:
        check_built_folder(args.output, args.overwrite)
    result = None
    if args.output is not None:
        result = build(args.source, args.input, options)
        show(result, options.layout)
        warn_if_glued(result, args.source, args.template)
    if args.export is not None:
        kind, file = args.export
        # The original's default is one item a query; its --to_pairs is our --layout pairs.
        shape = args.layout or "ranked"
        number = export_text_score(args.source, args.input, Path(file), kind, options, shape, args.overwrite)
        print(f"wrote {file}: {number:,} items, not cleaned")
    if result is not None:
        save(result, args.output, args.overwrite, args.license)
        sizes = ", ".join(f"{name} {len(dataset):,}" for name, dataset in result.datasets.items())
        print(f"wrote {args.output}: {sizes} {'pairs' if options.layout == 'pairs' else 'ranked rows'}")


def parse_columns(pairs: list[str]) -> dict[str, str]:
    """Parts `OURS=THEIRS` arguments; raises an `InputError` for anything else."""
    columns = {}
    for pair in pairs:
        ours, equals, theirs = pair.partition("=")
        if not (ours and equals and theirs):
            raise InputError(f"--columns {pair}: write OURS=THEIRS, for example prompt=question.")
        columns[ours] = theirs
    return columns


def show(result: BuildResult, shape: str) -> None:
    """Prints the cleaning table and what a user should know about the split."""
    from ..data.cleaning import cleaning_steps
    from ..output.console import print_table

    steps = cleaning_steps(shape)
    rows = [
        [title, *(f"{getattr(counts, key):,}" for counts in result.counts.values())] for title, key in steps.items()
    ]
    print_table(["step", *result.counts], rows)
    if result.shared_prompts:
        print(
            f"warning: {result.shared_prompts:,} prompts stand in both of the given splits; they were left as they are."
        )


def warn_if_glued(result: BuildResult, source: str, template: str | None) -> None:
    """Says so if a plain-text prompt and its answer meet without a space; a template is the user's to ask for."""
    first = next(iter(result.datasets.values()))[0]
    prompt, answer = first["prompt"], first["chosen"] if "chosen" in first else first["completions"][0]
    if source not in ("jsonl", "preference") or template or not (prompt and isinstance(prompt, str) and answer):
        return
    if not (prompt[-1].isspace() or answer[0].isspace() or prompt.endswith("Assistant:")):
        print(
            f"note: prompt and answer meet without a space ('…{prompt[-20:]}' + '{answer[:20]}…'). "
            "--template human-assistant puts them apart; --template none keeps them, without this note."
        )
