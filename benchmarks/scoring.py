"""
Speed of scoring rows that share prompts: RewardScorer against `pipeline("text-classification")` at its best batch
size, and a batch with four adapters against a batch with one. Both sides use the same weights, texts, dtype, threads
and process.

    python benchmarks/scoring.py                       # CPU, Llama of 12M parameters, 5,000 rows a set
    python benchmarks/scoring.py --device cuda --shape 1B
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import warnings
from pathlib import Path


SETS = ("best-of-16", "best-of-16-multi-turn", "dsp")


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--shape", default=None, help="12M, 28M, 1B or 7B; default 12M on a CPU, 1B on a GPU")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--parts", nargs="+", default=["pipeline", "adapters"], choices=["pipeline", "adapters"])
    parser.add_argument("--rows", type=int, default=5000, help="rows (a prompt and one completion) per set")
    parser.add_argument("--repeats", type=int, default=3, help="interleaved repeats")
    parser.add_argument(
        "--batch-sizes", nargs="+", type=int, default=[1, 4, 8, 16, 32, 64], help="batch sizes to try for the pipeline"
    )
    parser.add_argument("--trial-rows", type=int, default=320, help="rows used to choose the best of them")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--max-length", type=int, default=512, help="tokens per text")
    parser.add_argument("--output", type=Path, default=None, help="also write the report to this file")
    args = parser.parse_args(argv)
    args.shape = args.shape or ("12M" if args.device == "cpu" else "1B")
    return args


def main(argv: list[str] | None = None) -> None:
    """Runs the parts asked for and prints the report as it grows."""
    args = parse(argv)
    os.environ.setdefault("OMP_NUM_THREADS", str(args.threads))
    warnings.filterwarnings("ignore")
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    import torch
    import transformers

    torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    from speed import data, report
    from speed.scoring import build_adapters, build_model, compare_adapters, compare_pipeline, make_rows

    def emit(text: str, first: bool = False) -> None:
        print(text, flush=True)
        if args.output:
            with args.output.open("w" if first else "a", encoding="utf-8") as file:
                file.write(text + "\n")

    def say(text: str) -> None:
        print(f"  {text}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        sets = [data.load_rows("dsp" if name == "dsp" else "helpful") for name in args.sets]
        tokenizer = data.make_tokenizer(sets, Path(folder, "tokenizer"))
        model = build_model(tokenizer, args.shape, args.max_length, Path(folder, "rm"))
        made = {name: make_rows(name, rows, tokenizer, args) for name, rows in zip(args.sets, sets)}
        command = " ".join(["python benchmarks/scoring.py", *(argv if argv is not None else sys.argv[1:])])
        sources = ", ".join(f"{name} from {rows.origin}" for name, rows in zip(args.sets, sets))
        emit(report.header(command, args.device, args.shape, args.threads, sources), first=True)
        for name, rows in made.items():
            if "pipeline" in args.parts:
                emit(compare_pipeline(name, rows, model, args, say))
        if "adapters" in args.parts:
            name, rows = next(iter(made.items()))
            emit(compare_adapters(name, rows, model, build_adapters(model, Path(folder)), args, say))


if __name__ == "__main__":
    main()
