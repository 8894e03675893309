"""
Builds the datasets of the studies on published data from the test files that the authors of the paper released.

    python benchmarks/published/build_datasets.py FILES              # -> outputs/published/{helpful,harmless,webgpt,dsp-DOMAIN}
    python benchmarks/published/build_datasets.py FILES --output DIR

FILES is a folder with helpful.test.json, harmless.test.json, webgpt.test.json and domain_specific_preference.test.json.
A fifth of the prompts of each is held out as split `test`. A tenth of the remaining general prompts is held out once more
under OUTPUT/tuning, to choose settings without a look at the test prompts. Every split is by prompt and seeded.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

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
        hold_out(args.output / name, args.output / "tuning" / name)
    for domain in DOMAINS:
        file = args.files / "domain_specific_preference.test.json"
        build("dsp", file, args.output / f"dsp-{domain}", 0.2, seed=0, flags=["--domain", domain])


def build(
    source: str, file: Path, output: Path, test_size: float, *, seed: int, flags: list[str] | None = None
) -> None:
    """Runs `rm-toolkit build-data`; exits with its code if it fails."""
    words = [source, "--input", str(file), "--output", str(output), "--layout", "ranked", "--overwrite"]
    words += ["--test-size", str(test_size), "--seed", str(seed), *(flags or [])]
    code = run_command(["build-data", *words])
    if code:
        sys.exit(code)


def hold_out(folder: Path, output: Path) -> None:
    """Splits the training prompts of a built dataset once more, without changing the texts."""
    from datasets import load_from_disk

    rows = load_from_disk(folder)["train"]
    texts = [{"text": [row["prompt"] + one for one in row["completions"]], "score": row["scores"]} for row in rows]
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary, f"{folder.name}.train.json")
        file.write_text(json.dumps(texts), encoding="utf-8")
        build("text-score", file, output, 0.1, seed=1)


if __name__ == "__main__":
    main()
