"""`rm-toolkit build-data SOURCE --input … --output DIR`: raw preference data -> Arrow datasets for TRL."""

from __future__ import annotations

import argparse
import json
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError, one_line
from .options import PLACE, PROCESSES, SEED


if TYPE_CHECKING:
    from ..data.build import BuildOptions, BuildResult
    from ..output.ranges import Range


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    from ..data.number_ranges import SCORE_RATIO, TEST_SIZE
    from ..data.schema import FORMATS, SHAPES
    from ..data.sources import SOURCES
    from ..data.templates import TEMPLATES

    summaries = {"auto": "picks the source whose columns the input has"}
    summaries |= {name: source.summary for name, source in SOURCES.items()}
    overview = "sources:\n" + "\n".join(f"  {name:<14} {summary}" for name, summary in summaries.items())
    names = textwrap.fill(
        ", ".join(summaries), 96, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False
    )
    parser.epilog = f"sources (--list-sources describes each):\n{names}"
    parser.add_argument("source", help="raw format of the input, see below; auto: found by its columns")
    parser.add_argument("--list-sources", action="version", version=overview, help="describe each source and exit")
    add = parser.add_argument_group("how the input is read").add_argument
    add("--input", nargs="+", required=True, metavar="FILE", help="file, folder or Hub id; or train=FILE test=FILE")
    add("--dry-run", action="store_true", help="show how the input is read and its first row; write nothing")
    add("--domain", help="dsp: whose answers are preferred; hh folder: helpful or harmless; others: a tag of rows")
    add(
        "--columns",
        nargs="+",
        default=[],
        metavar="OURS=THEIRS",
        help="jsonl, preference: prompt=question chosen=good …",
    )
    add("--ignore-columns", nargs="+", default=[], metavar="NAME", help="columns of the input to ignore")
    add("--label", metavar="NAME", help="the column to read, where several say which response is better")
    add("--template", choices=TEMPLATES, help="text put around a plain-text prompt in the text format")
    _add_left_out(parser, SCORE_RATIO)
    add = parser.add_argument_group("what is written").add_argument
    add("--output", type=PLACE, metavar="DIR", help="folder for the built dataset")
    add("--layout", choices=SHAPES, help="chosen/rejected pairs (default), or one ranked row per prompt")
    add("--format", choices=FORMATS, default="text", help="strings (default), or lists of messages")
    add(
        "--test-size",
        type=TEST_SIZE,
        default=0.1,
        help="fraction or number of prompts to hold out; 0: none (default 0.1)",
    )
    add("--seed", type=SEED, default=0, help="seed of that split (default 0)")
    add("--export", nargs=2, metavar=("text-score", "FILE"), help="also write the original format, not cleaned")
    add("--license", help="license of the data, stored with it")
    add("--overwrite", action="store_true", help="replace an output that an earlier build wrote")
    parser.add_argument("--num-proc", type=PROCESSES, help="processes for cleaning (default 1)")
    parser.add_argument("--cache-dir", help="cache of the datasets library (default: its own)")


def _add_left_out(parser: argparse.ArgumentParser, ratio: Range) -> None:
    add = parser.add_argument_group("what is left out").add_argument
    add("--min-score-ratio", type=ratio, metavar="X", help="shp: leave out rows whose score ratio is below X")
    add(
        "--drop-contradictions",
        action="store_true",
        help="ultrafeedback: completions whose score contradicts their own ratings",
    )
    add("--strip-citations", action="store_true", help="webgpt: marks like [1] in the answers")
    add(
        "--drop-pairs",
        metavar="FILE",
        help="pairs of a reviewed list, as `rm-toolkit doubt` writes it; lines without a match are reported",
    )
    add(
        "--skip-invalid",
        action="store_true",
        help="records that cannot be used; they are counted, and the first ten named",
    )


def outputs(args: argparse.Namespace) -> list[Path]:
    """Paths that only one process may write at a time."""
    return [Path(output) for output in (args.output, args.export and args.export[1]) if output]


def run(args: argparse.Namespace) -> None:
    """Builds, shows what cleaning did, saves."""
    from ..data.build import BuildOptions, build, check_built_folder, save
    from ..data.export import EXPORT_KINDS, export_text_score
    from ..data.schema import check_choice

    nothing = args.output is None and args.export is None
    if nothing and not args.dry_run and args.source != "auto":
        raise InputError("nothing to write: pass --output DIR, --export text-score FILE, or both; or --dry-run.")
    options = BuildOptions(
        domain=args.domain,
        columns=parse_columns(args.columns),
        ignore_columns=tuple(args.ignore_columns),
        strip_citations=args.strip_citations,
        label=args.label,
        min_score_ratio=args.min_score_ratio,
        drop_contradictions=args.drop_contradictions,
        template=args.template,
        layout=args.layout or "pairs",
        format=args.format,
        test_size=args.test_size,
        seed=args.seed,
        skip_invalid=args.skip_invalid,
        num_proc=args.num_proc,
        cache_dir=args.cache_dir,
        drop_pairs=args.drop_pairs,
    )
    if args.drop_pairs and args.output is None and not args.dry_run:
        raise InputError("--drop-pairs leaves pairs out of a built dataset: pass --output DIR too.")
    if args.export is not None:
        check_choice("export", args.export[0], EXPORT_KINDS)
    if args.output is not None:
        check_built_folder(args.output, args.overwrite)
    source = args.source
    if source == "auto" or args.dry_run:
        source = show_form(source, args.input, options)
    if nothing and not args.dry_run:
        print("nothing was written: pass --output DIR to build it.")
    if nothing or args.dry_run:
        return
    result = None
    if args.output is not None:
        result = build(source, args.input, options)
        show(result, options.layout)
        warn_if_glued(result, source, args.template)
    if args.export is not None:
        kind, file = args.export
        # The original's default is one item per query; its --to_pairs is our --layout pairs.
        shape = args.layout or "ranked"
        number = export_text_score(source, args.input, Path(file), kind, options, shape, args.overwrite)
        print(f"wrote {file}: {number:,} items, not cleaned")
    if result is not None:
        save(result, args.output, args.overwrite, args.license)
        sizes = ", ".join(f"{name} {len(dataset):,}" for name, dataset in result.datasets.items())
        print(f"wrote {args.output}: {sizes} {'pairs' if options.layout == 'pairs' else 'ranked rows'}")


def parse_columns(pairs: list[str]) -> dict[str, str]:
    """Splits `OURS=THEIRS` arguments; raises an `InputError` for anything else."""
    columns = {}
    for pair in pairs:
        ours, equals, theirs = pair.partition("=")
        if not (ours and equals and theirs):
            raise InputError(f"--columns {pair}: write OURS=THEIRS, for example prompt=question.")
        columns[ours] = theirs
    return columns


def show_form(name: str, inputs: list[str], options: BuildOptions) -> str:
    """Prints what the input is, how it is read, and its first row; returns the name of the source that reads it."""
    from ..data.inputs import resolve_inputs
    from ..data.recognition import preview, recognize_inputs
    from ..data.sources import Source, find_source

    found = recognize_inputs(inputs, options) if name == "auto" else find_source(name)
    if isinstance(found, Source):
        source = found
        print(f"{', '.join(inputs)}: read by the source '{source.name}' ({source.summary})")
    else:
        source = find_source(found.source)
        seen = f", seen by {', '.join(found.columns)}" if found.columns else ""
        print(f"{', '.join(inputs)}: {found.name} (source '{source.name}'{seen})")
        print(f"read as: {found.reads}")
    options.check_for(source)
    first = next(iter(resolve_inputs(source, inputs, options).values()))[0]
    row = preview(source, first, options, options.format, options.skip_invalid)
    if row.unread:
        print(f"not read: {', '.join(row.unread)}")
    for note in row.notes:
        print(f"counted: {note}")
    print(f"first row, in the {options.format} format:")
    print(f"  prompt: {_as_line(row.prompt)}")
    for score, text in sorted(zip(row.scores, row.completions), key=lambda entry: -entry[0]):
        print(f"  score {score:g}: {_as_line(text)}")
    return source.name


def _as_line(text: str | list[dict]) -> str:
    if isinstance(text, list):
        text = json.dumps(text, ensure_ascii=False)
    return one_line(text, 300)


def show(result: BuildResult, shape: str) -> None:
    """Prints the cleaning table and what a user should know about the split."""
    from ..data.cleaning import cleaning_steps
    from ..output.console import print_table

    steps = cleaning_steps(shape, listed=result.drop_list is not None)
    rows = [
        [title, *(f"{getattr(counts, key):,}" for counts in result.counts.values())] for title, key in steps.items()
    ]
    print_table(["step", *result.counts], rows)
    for line in result.drop_list.describe() if result.drop_list is not None else ():
        print(line)
    for name, reasons in result.left_out.items():
        where = f"left out of {name}" if len(result.left_out) > 1 else "left out"
        for reason in reasons:
            print(f"{where}: {reason}")
        if result.counts[name].invalid > len(reasons):
            print(f"{where}: and {result.counts[name].invalid - len(reasons):,} more")
    for name, notes in result.notes.items():
        for note, number in notes.items():
            print(f"note: {name}: {number:,} {note}")
    if result.shared_prompts:
        print(f"warning: {result.shared_prompts:,} prompts are in both of the given splits; they were left there.")


def warn_if_glued(result: BuildResult, source: str, template: str | None) -> None:
    """Prints a note if no space separates a plain-text prompt from its answer; only the user can choose a template."""
    first = next(iter(result.datasets.values()))[0]
    prompt, answer = first["prompt"], first["chosen"] if "chosen" in first else first["completions"][0]
    if source not in ("jsonl", "preference") or template or not (prompt and isinstance(prompt, str) and answer):
        return
    if not (prompt[-1].isspace() or answer[0].isspace() or prompt.endswith("Assistant:")):
        print(
            f"note: no space between prompt and answer ('…{prompt[-20:]}' + '{answer[:20]}…'). "
            "--template human-assistant separates them; --template none leaves them as they are, without this note."
        )
