"""
Users' inputs in ../shared/cases, beside the checkout: each is read or refused as the README there requires.

    pytest tests/data/test_cases.py -s        prints a table of what must happen and what happened
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from transformers import AutoConfig

from rm_toolkit.batches.equal_texts import describe_equal_pairs
from rm_toolkit.batches.refused_rows import RefusedRow, locate
from rm_toolkit.batches.tokenization import tokenize_preferences
from rm_toolkit.data.build import BuildOptions, build
from rm_toolkit.data.mixture import load_datasets
from rm_toolkit.data.specs import DatasetSpec
from rm_toolkit.errors import InputError
from rm_toolkit.models.tokenizer import load_tokenizer, prepare_tokenizer
from rm_toolkit.training.refused import leave_out_refused


CASES = Path(__file__).parents[2].parent / "shared" / "cases"
READABLE = (".json", ".jsonl", ".csv", ".tsv", ".xlsx")
GOOD = "Start by looking closely"
# File -> number of pairs, and in how many the useful answer is labelled better (None: both or neither are useful).
READ = {
    "alpaca_input/data.jsonl": (12, 12),
    "arena/data.jsonl": (6, 6),
    "arena_kaggle/data.jsonl": (12, 12),
    "argilla/records.jsonl": (12, 12),
    "csv/data.csv": (12, 12),
    "csv/data.tsv": (12, 12),
    "enc/bom.jsonl": (12, 12),
    "enc/bomarray.json": (12, 12),
    "enc/colsplit.json": (12, 12),
    "enc/cr.jsonl": (12, 12),
    "enc/crlf.jsonl": (12, 12),
    "enc/nested.json": (12, 12),
    "enc/u2028.jsonl": (12, 12),
    "helpsteer3/data.jsonl": (12, 6),
    "jsonstring/data.jsonl": (12, 12),
    "labelstudio/export.json": (12, 6),
    "mix/promptlist.jsonl": (12, 12),
    "mtbench/data.jsonl": (8, 4),
    "nectar/data.jsonl": (36, None),
    "oasst/flat.jsonl": (12, 12),
    "oasst/trees.jsonl": (12, 12),
    "orca/data.jsonl": (12, 12),
    "pku/data.jsonl": (12, 12),
    "rankrows/data.jsonl": (12, 12),
    "sharegpt/data.jsonl": (12, 12),
    "shp/data.jsonl": (12, 12),
    "skywork_diff_prompt/data.jsonl": (12, None),
    "template_row/oneodd.train.jsonl": (150, None),
    "thought_only/thought.test.jsonl": (50, None),
    "thought_only/thought.train.jsonl": (150, None),
    "tools/empty.jsonl": (12, None),
    "tools/null.jsonl": (12, None),
    "tools/text.jsonl": (12, None),
    "tools/text2.jsonl": (12, None),
    "ultrafeedback_raw/data.jsonl": (36, None),
    "unicode/data.jsonl": (12, 12),
    "unicode/nul.jsonl": (12, 12),
    "unicode/zwdiff.jsonl": (12, None),
    "unicode/zwonly.jsonl": (12, None),
}
REFUSED = {
    "csv/data.xlsx": "an Excel workbook .* Save the sheet as CSV in UTF-8",
    "enc/latin1.jsonl": r"line 1: not UTF-8 \(byte 0xe9\)\. Save the file in UTF-8",
    "enc/utf16.jsonl": "line 1: not UTF-8 but UTF-16 .* iconv -f UTF-16 -t UTF-8",
    "helpsteer2_pref/data.jsonl": r"line 5: `preference_strength` is -100, but must be from -3 to 3 .* pass --skip-invalid",
    "mix/nonerej.jsonl": "line 4: `rejected` is null, .* Fix or remove the line, or pass --skip-invalid",
    "strscores/data.jsonl": "line 1: `score_chosen` must be a number, got the string '4.5'",
}


TOOL_TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] or '' }}"
    "{% if m['tool_calls'] %}{{ m['tool_calls'] | tojson }}{% endif %}{% endfor %}"
)
# What a model makes of these texts: (rows, template or the folder that has it, what must happen).
TEXTS = {
    "tool calls, content empty": ("tools/empty.jsonl", None, "12 pairs, no two texts equal"),
    "tool calls, content null": ("tools/null.jsonl", None, "12 pairs, no two texts equal"),
    "tool calls, content equal": ("tools/text.jsonl", None, "12 pairs, no two texts equal"),
    "tool calls beside text": ("tools/text2.jsonl", None, "12 pairs, no two texts equal"),
    "prompt that is no prefix": ("orca/data.jsonl", "r1_prefix", "12 pairs, no two texts equal; common beginning is the prompt in 12 rows"),
    "hidden reasoning": (
        "thought_only/thought.train.jsonl",
        "thought_only",
        "0 pairs; 150 of 150 pairs .* \\(150 equal as text\\); they are left out of training",
    ),
    "hidden reasoning, tested": ("thought_only/thought.test.jsonl", "thought_only", "50 pairs; 50 of 50 pairs .* they count as ties"),
    "a row that is refused": (
        "template_row/oneodd.train.jsonl",
        "template_row",
        "refused: .*oneodd.train.jsonl, line 58: the tokenizer's chat template refuses .* roles must alternate .*; 149 rows without it",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def table():
    """Collects (kind, file, what must happen, what happened), and prints them at the end."""
    rows = []
    yield lambda *row: rows.append(row)
    if rows:
        widths = [min(max(map(len, column)), 70) for column in zip(*rows)]
        head = ("kind", "file", "must", "happened")
        for row in (head, *sorted(rows)):
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def read(name, **options):
    path = CASES / name
    if not path.is_file():
        pytest.skip(f"the inputs that users bring are not at {CASES}")
    return build("auto", [str(path)], BuildOptions(**{"test_size": 0, "format": "chat"} | options))


@pytest.mark.parametrize("name", READ)
def test_an_input_is_read_without_a_flag_as_its_label_says(name, table):
    built = read(name)
    pairs, (number, good) = built.datasets["train"], READ[name]
    better, worse = (
        sum(str(row[side][-1]["content"]).startswith(GOOD) for row in pairs) for side in ("chosen", "rejected")
    )
    says = "" if good is None else f", {good} with the useful answer better, {number - good} worse"
    found = "" if good is None else f", {better} with the useful answer better, {worse} worse"
    table("rows", name, f"{number} pairs{says}", f"{len(pairs)} pairs{found}")
    assert len(pairs) == number
    if good is not None:
        assert (better, worse) == (good, number - good)
        assert len(set(pairs["prompt_id"])) == number
    assert all("[{" not in str(row["chosen"][-1]["content"]) for row in pairs)


@pytest.mark.parametrize("name", REFUSED)
def test_an_input_that_cannot_be_read_is_refused_for_what_it_is(name, table):
    with pytest.raises(InputError, match=REFUSED[name]) as caught:
        read(name)
    table(
        "rows",
        name,
        f"refused: {REFUSED[name]}",
        "refused: " + str(caught.value).rpartition(f"{name.split('/')[1]}")[2],
    )


@pytest.mark.parametrize("kind", TEXTS)
def test_the_texts_of_an_input_are_what_the_template_renders(kind, base_model, table):
    name, template, must = TEXTS[kind]
    path = CASES / name
    if not path.is_file():
        pytest.skip(f"the inputs that users bring are not at {CASES}")
    tokenizer = load_tokenizer(base_model())
    tokenizer.chat_template = (CASES / template / "chat_template.jinja").read_text() if template else TOOL_TEMPLATE
    prepare_tokenizer(tokenizer, AutoConfig.from_pretrained(base_model()), max_length=512, data_format="chat")
    spec = {"path": str(path), "layout": "pairs"}
    rows = load_datasets({"a": spec}, "train", format="chat")["a"]
    keep = "test" in name
    happened = _texts(rows, tokenizer, keep) or _refusal(rows, spec, tokenizer)
    table("texts", name, must, happened)
    assert re.fullmatch(must, happened)


def _texts(rows, tokenizer, keep):
    try:
        data = tokenize_preferences(
            rows, tokenizer, max_length=512, data_format="chat", keep_equal=keep, show_progress=False
        )
    except RefusedRow:
        return None
    equal = describe_equal_pairs("a", data.equal_pairs, len(data), keep).partition(": ")[2]
    partial = (
        f"; common beginning is the prompt in {data.num_partial_prompts} rows" if data.num_partial_prompts else ""
    )
    assert (data.completion_start[data.better] > 0).all()
    return f"{len(data)} pairs" + (f"; {equal}" if equal else ", no two texts equal") + (partial if not equal else "")


def _refusal(rows, spec, tokenizer):
    error = locate(DatasetSpec.parse(spec, "a"), "train", tokenizer)
    left = leave_out_refused({"a": rows}, {"a": {**spec, "skip_invalid": True}}, tokenizer, "chat")["a"]
    return f"refused: {error}; {len(left)} rows without it".replace("\n", " ")


def test_every_input_has_its_expectation():
    if not CASES.is_dir():
        pytest.skip(f"the inputs that users bring are not at {CASES}")
    found = {str(path.relative_to(CASES)) for path in CASES.rglob("*") if path.suffix in READABLE}
    assert found == READ.keys() | REFUSED.keys()


def test_rows_of_a_vote_keep_their_ties():
    for name, ties in (("arena/data.jsonl", 6), ("mtbench/data.jsonl", 4)):
        assert read(name).counts["train"].ties == ties
        assert read(name, layout="ranked").counts["train"].tied_rows == ties


def test_contradicting_scores_are_counted_and_can_be_left_out():
    ((note, number),) = read("ultrafeedback_raw/data.jsonl").notes["train"].items()
    assert number == 1 and note.startswith("scores that contradict their own fine-grained ratings kept")
    pairs = read("ultrafeedback_raw/data.jsonl", drop_contradictions=True).datasets["train"]
    assert len(pairs) == 34 and all(row["chosen"][-1]["content"].startswith(GOOD) for row in pairs)


def test_an_unusable_row_can_be_counted_instead():
    counts = read("helpsteer2_pref/data.jsonl", skip_invalid=True).counts["train"]
    assert (counts.read, counts.invalid) == (12, 2)
    counts = read("mix/nonerej.jsonl", skip_invalid=True).counts["train"]
    assert (counts.read, counts.invalid, counts.kept) == (12, 1, 11)
