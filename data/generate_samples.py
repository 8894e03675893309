"""
Writes the sample datasets: `python data/generate_samples.py [--output data/samples]`, standard library only.
`--check` prints how easy the sets are instead, `--readme` puts that table into data/README.md; both need scikit-learn.

The texts are composed from the word banks in `data/banks/` by a seeded generator: the same bytes on every run.
"""

import argparse
import gzip
import io
import json
import sys
from pathlib import Path


HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from sample_sets import DOMAINS, SPLITS, build_set  # noqa: E402


FILES = {
    "dsp": "dsp.{split}.json",
    "helpful": "hh/helpful-base/{split}.jsonl.gz",
    "harmless": "hh/harmless-base/{split}.jsonl.gz",
    "webgpt": "webgpt.{split}.jsonl",
    "gpt4llm": "gpt4llm.{split}.json",
}
GENERAL = ("helpful", "harmless", "webgpt", "gpt4llm")
TABLE_MARKS = ("<!-- figures: begin -->", "<!-- figures: end -->")


def encode(rows: list[dict], file_name: str) -> bytes:
    """Rows as the bytes of a `.json`, `.jsonl` or `.jsonl.gz` file."""
    if file_name.endswith(".json"):
        return (json.dumps(rows, indent=1, ensure_ascii=False) + "\n").encode()
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    if not file_name.endswith(".gz"):
        return lines
    packed = io.BytesIO()
    # No time and no file name in the header: the same rows are the same bytes (`gzip.compress` writes a header of its own by version).
    with gzip.GzipFile(filename="", mode="wb", fileobj=packed, mtime=0) as stream:
        stream.write(lines)
    return packed.getvalue()


def read_rows(path: Path) -> list[dict]:
    """Rows of a file that `encode` made."""
    data = path.read_bytes()
    if path.suffix == ".json":
        return json.loads(data)
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    return [json.loads(line) for line in text.splitlines()]


def generate(output: Path) -> list[Path]:
    """Writes every set below `output` and returns the files."""
    paths = []
    for name, pattern in FILES.items():
        for split in SPLITS:
            path = output / pattern.format(split=split)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(build_set(name, split), path.name))
            paths.append(path)
    return paths


def load_samples(folder: Path = HERE / "samples") -> dict[str, dict[str, list[dict]]]:
    """Raw rows by set and split."""
    return {
        name: {split: read_rows(folder / pattern.format(split=split)) for split in SPLITS}
        for name, pattern in FILES.items()
    }


def figures(samples: dict[str, dict[str, list[dict]]]) -> tuple[list[dict], dict[str, float]]:
    """One row of figures a set (a DSP domain is a set of its own), and the accuracies across sets."""
    from sample_metrics import bag_of_words, best_word, longest_wins, pairs_of

    pairs = {name: {split: pairs_of(name, samples[name][split]) for split in SPLITS} for name in GENERAL}
    for domain in DOMAINS:
        pairs[f"dsp {domain}"] = {split: pairs_of("dsp", samples["dsp"][split], domain) for split in SPLITS}
    rows = []
    for name, splits in pairs.items():
        word, on_train, on_test = best_word(splits["train"], splits["test"])
        rows.append(
            {
                "set": name,
                "train pairs": len(splits["train"]),
                "test pairs": len(splits["test"]),
                "longest wins": longest_wins(splits["test"]),
                "best word": word,
                "its accuracy in train": on_train,
                "its accuracy in test": on_test,
                "bag of words": bag_of_words(splits["train"], {"test": splits["test"]})["test"],
            }
        )
    tests = {name: splits["test"] for name, splits in pairs.items()}
    general = bag_of_words(pairs["helpful"]["train"] + pairs["harmless"]["train"], tests)
    literature = bag_of_words(pairs["dsp literature"]["train"], tests)
    across = {f"helpful + harmless -> {name}": value for name, value in general.items()}
    across |= {f"dsp literature -> {name}": literature[name] for name in GENERAL}
    return rows, across


def figure_table(samples: dict[str, dict[str, list[dict]]]) -> str:
    """`figures` as two Markdown tables."""
    rows, across = figures(samples)
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    for row in rows:
        cells = [f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()]
        cells[4] = f"`{cells[4]}`"
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "| bag of words, fit on -> tested on | accuracy |", "|---|---|"]
    lines += [f"| {name} | {value:.3f} |" for name, value in across.items()]
    return "\n".join(lines) + "\n"


def update_readme(table: str, path: Path = HERE / "README.md") -> None:
    """Replaces the table between the two marks in `path`."""
    begin, end = TABLE_MARKS
    head, _, rest = path.read_text(encoding="utf-8").partition(begin)
    path.write_text(f"{head}{begin}\n{table}{end}{rest.partition(end)[2]}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=HERE / "samples", help="folder of the sample files")
    parser.add_argument(
        "--check", action="store_true", help="print the figures of the files in --output, write nothing"
    )
    parser.add_argument("--readme", action="store_true", help="write these figures into data/README.md")
    arguments = parser.parse_args()
    if arguments.check or arguments.readme:
        table = figure_table(load_samples(arguments.output))
        print(table, end="")
        if arguments.readme:
            update_readme(table)
        return
    for path in generate(arguments.output):
        print(f"{path.stat().st_size:>9,} bytes  {path}")


if __name__ == "__main__":
    main()
