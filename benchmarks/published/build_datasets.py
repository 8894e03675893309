"""
Builds the datasets of the studies on published data from the test files that the authors of the paper released.

    python benchmarks/published/build_datasets.py FILES              # -> outputs/published/{helpful,harmless,webgpt,dsp-DOMAIN}
    python benchmarks/published/build_datasets.py FILES --output DIR

FILES is a folder with helpful.test.json, harmless.test.json, webgpt.test.json and domain_specific_preference.test.json.
A fifth of the prompts of each is held out as split `test`. A tenth of the remaining general prompts is held out once more
under OUTPUT/tuning, to choose settings without a look at the test prompts, and a third under OUTPUT/tuning-third, where
differences between settings are seen more sharply. Every split is by prompt and seeded.

OUTPUT/tagged has the training questions of all domains, each with its domain in front ("Domain: literature"), for one model that
reads whose preference to follow; OUTPUT/tagged-DOMAIN has the test questions.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rm_toolkit.cli import main as run_command


GENERAL = ("helpful", "harmless", "webgpt")
DOMAINS = ("academy", "business", "entertainment", "literature")


def main(argv: list[str] | None = None) -> None:
    """Builds what is named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, help="folder of the released files")
    parser.add_argument("--output", type=Path, default=Path("outputs/published"), help="folder of the datasets")
    args = parser.parse_args(argv)
    for name in GENERAL:
        build("text-score", args.files / f"{name}.test.json", args.output / name, 0.2, seed=0)
        hold_out(args.output / name, args.output / "tuning" / name, 0.1)
        hold_out(args.output / name, args.output / "tuning-third" / name, 1 / 3)
    for domain in DOMAINS:
        file = args.files / "domain_specific_preference.test.json"
        build("dsp", file, args.output / f"dsp-{domain}", 0.2, seed=0, flags=["--domain", domain])
        build_again(tagged(args.output, [domain], "test"), args.output / f"tagged-{domain}", 0, seed=0)
    build_again(tagged(args.output, DOMAINS, "train"), args.output / "tagged", 0, seed=0)


def build(
    source: str, file: Path, output: Path, test_size: float, *, seed: int, flags: list[str] | None = None
) -> None:
    """Runs `rm-toolkit build-data`; exits with its code if it fails."""
    words = [source, "--input", str(file), "--output", str(output), "--layout", "ranked", "--overwrite"]
    words += ["--test-size", str(test_size), "--seed", str(seed), *(flags or [])]
    code = run_command(["build-data", *words])
    if code:
        sys.exit(code)


def hold_out(folder: Path, output: Path, test_size: float) -> None:
    """Splits the training prompts of a built dataset once more."""
    build_again(as_texts(folder, "train"), output, test_size, seed=1)


def tagged(output: Path, domains: Sequence[str], split: str) -> list[dict[str, Any]]:
    """The questions of some domains, with the domain in front of each."""
    return [row for domain in domains for row in as_texts(output / f"dsp-{domain}", split, f"Domain: {domain}\n")]


def as_texts(folder: Path, split: str, front: str = "") -> list[dict[str, Any]]:
    """Rows of a built dataset in the text-score form, with the same texts."""
    from datasets import load_from_disk

    return [
        {"text": [front + row["prompt"] + answer for answer in row["completions"]], "score": row["scores"]}
        for row in load_from_disk(folder)[split]
    ]


def build_again(rows: list[dict[str, Any]], output: Path, test_size: float, *, seed: int) -> None:
    """Builds a dataset from rows in the text-score form."""
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary, f"{output.name}.json")
        file.write_text(json.dumps(rows), encoding="utf-8")
        build("text-score", file, output, test_size, seed=seed)


if __name__ == "__main__":
    main()
