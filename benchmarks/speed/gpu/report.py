"""The report of the GPU benchmark, printed as it grows and written to files, one set per part."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Any

from ..data import Rows


class Report:
    """
    Writes `PART.md` and `PART.json` into a folder.

    Args:
        args (`argparse.Namespace`): The parsed command line.
    """

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.folder: Path = args.output or Path("outputs/throughput")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.part = ""

    def begin(self, part: str) -> None:
        """Starts the report of a part, replacing an earlier one."""
        self.part = part
        (self.folder / f"{part}.md").write_text("", encoding="utf-8")

    def emit(self, text: str) -> None:
        """Prints a piece of the report and appends it to the part's file."""
        print(text, flush=True)
        with (self.folder / f"{self.part}.md").open("a", encoding="utf-8") as file:
            file.write(text + "\n")

    def say(self, text: str) -> None:
        """Prints progress to stderr."""
        print(f"  {text}", file=sys.stderr, flush=True)

    def keep(self, values: Any) -> None:
        """Writes measurements to the part's JSON file."""
        (self.folder / f"{self.part}.json").write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")

    def header(self, sets: Iterable[Rows]) -> str:
        """The lines above the tables: what is run, where and when."""
        import torch
        import transformers
        import trl

        args = self.args
        name = torch.cuda.get_device_name() if args.device == "cuda" else platform.processor() or platform.machine()
        sources = ", ".join(f"{rows.name}: {_described(rows)}" for rows in sets)
        command = " ".join(["python benchmarks/throughput.py", *sys.argv[1:]])
        return (
            f"`{command}`, part `{self.part}`, {date.today().isoformat()}  \n{name}; torch {torch.__version__}, transformers "
            f"{transformers.__version__}, trl {trl.__version__}; Llama {args.shape}, random weights, "
            f"{'bf16 autocast on fp32 weights' if args.device == 'cuda' else 'fp32'}, max_length {args.max_length}; {sources}. "
            "Ratios are medians over interleaved repeats (least to most).\n"
        )


def _described(rows: Rows) -> str:
    return f"{rows.origin} ({len(rows.groups)} prompts, {rows.num_pairs} pairs)"
