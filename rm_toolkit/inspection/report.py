"""`report.md` of an inspection."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from ..output.markdown import image, number, table
from .counts import QUANTILES


STEPS = {
    "rows": "rows",
    "prompts": "distinct prompts",
    "repeated_prompts": "rows with a repeated prompt",
    "pairs": "pairs",
    "empty": "- empty texts",
    "identical": "- identical texts",
    "ties": "- ties",
    "duplicates": "- exact duplicates",
    "clean_pairs": "clean pairs",
}
WORDS_SHOWN = 15
EACH_COLUMN = "Each column: the responses of that domain are preferred to all others."
COUNTED = (
    "Ties are pairs with equal scores; identical texts are the same response twice; a duplicate equals an earlier "
    "pair up to white space. Training uses the clean pairs."
)
SHARES = "Up to white space; shares are of this dataset."
MEASURE = (
    "z-score of the weighted log-odds-ratio of a word in a group against all others (Monroe, Colaresi and Quinn "
    "2008), the prior shaped like the whole corpus and as large as the average group; in brackets the number of texts of the "
    "group with the word. Counted once per text; words of two letters or more in at least three texts, without English "
    "stop words, with a score above 1.96."
)
Table = tuple[list[str], list[list[str]]]  # headings and rows


def write_report(result: dict[str, Any], figures: list[tuple[str, str]], path: Path) -> None:
    """
    Writes the report.

    Args:
        result (`dict`): Contents of `inspection.json`.
        figures (`list[tuple[str, str]]`): From [`~rm_toolkit.inspection.figures.draw_figures`].
        path (`Path`): The file; the figures are beside it in `figures/`.
    """
    pictures = {file: image(f"figures/{file}", caption) for file, caption in figures}
    parts = [f"# {inspection_title(result)}", counts_section(result), "## Lengths", lengths_section(result)]
    parts.append(pictures["lengths.png"])
    if result["overlap"]:
        parts += ["## Overlap", overlap_section(result)]
    parts += ["## Distinctive words", words_section(result)]
    if "words.png" in pictures:
        parts.append(pictures["words.png"])
    parts.append(f"rm_toolkit {result['rm_toolkit']}; fingerprint {result['fingerprint']}.")
    if result["command"]:
        parts.append(f"```bash\n{shlex.join(result['command'])}\n```")
    path.write_text("\n\n".join(part.strip() for part in parts) + "\n", encoding="utf-8")


def counts_section(result: dict[str, Any]) -> str:
    """Rows, pairs and what cleaning removes, with an explanation of the terms."""
    note = f"{EACH_COLUMN}\n\n" if len(result["counts"]) > 1 else ""
    return f"{note}{table(*counts_table(result))}\n\n{COUNTED}"


def counts_table(result: dict[str, Any]) -> Table:
    """A column for each domain that can be the preferred one."""
    views = list(result["counts"])
    rows = [[title, *(f"{result['counts'][view][key]:,}" for view in views)] for key, title in STEPS.items()]
    rows.append(["accuracy of 'the longer response wins'", *(number(result["longer_wins"][view]) for view in views)])
    return ["", *views], rows


def lengths_section(result: dict[str, Any]) -> str:
    """Quantiles, and how many texts a model would truncate."""
    return f"{table(*lengths_table(result))}\n\n{cut_sentence(result)}"


def lengths_table(result: dict[str, Any]) -> Table:
    """Quantiles of the lengths of each kind of text."""
    lengths = result["lengths"]
    quantiles = [f"{100 * q:g}%" for q in QUANTILES]
    rows = [
        [name, f"{own['texts']:,}", number(own["mean"], 1), *(f"{own[q]:,}" for q in quantiles)]
        for name, own in lengths.items()
        if name not in ("unit", "tokenizer")
    ]
    titles = ["shortest" if q == "0%" else "longest" if q == "100%" else q for q in quantiles]
    return [lengths["unit"], "texts", "mean", *titles], rows


def cut_sentence(result: dict[str, Any]) -> str:
    """Says how many texts a model would truncate."""
    if not result["cut"]:
        return "No tokenizer was given (`--tokenizer`), so lengths are in words separated by white space."
    cut = result["cut"]
    return (
        f"{cut['texts']:,} of {result['texts']:,} texts ({cut['share']:.1%}) are longer than `max_length` "
        f"{cut['max_length']}; they are cut at their beginning."
    )


def overlap_section(result: dict[str, Any]) -> str:
    """Prompts and whole texts that are also in other sets."""
    return f"{table(*overlap_table(result))}\n\n{SHARES}"


def overlap_table(result: dict[str, Any]) -> Table:
    """Overlap with each other set."""
    rows = [
        [
            name,
            f"{own['prompts']:,} ({own['prompts_share']:.1%})",
            f"{own['texts']:,} ({own['texts_share']:.1%})",
            f"{own['other_prompts']:,}",
            f"{own['other_texts']:,}",
        ]
        for name, own in result["overlap"].items()
    ]
    return ["other set", "shared prompts", "shared texts", "its prompts", "its texts"], rows


def words_section(result: dict[str, Any]) -> str:
    """A description of the measure, and the top words of each group."""
    return f"{MEASURE}\n\n" + table(*words_table(result))


def words_table(result: dict[str, Any]) -> Table:
    """The top words of each group."""
    groups = result["words"]
    lines = [
        [str(place + 1), *(_word(words[place]) if place < len(words) else "" for words in groups.values())]
        for place in range(min(WORDS_SHOWN, max(map(len, groups.values()))))
    ]
    return ["", *groups], lines


def inspection_title(result: dict[str, Any]) -> str:
    """Names the data."""
    dataset = result["dataset"]
    return f"Inspection of {Path(dataset if isinstance(dataset, str) else dataset['path']).name}"


def _word(entry: dict[str, Any]) -> str:
    return f"{entry['word']} {entry['score']:.1f} ({entry['texts']:,})"
