"""Inputs that users bring, beside the checkout in ../shared/cases: each is read, or refused, as its README demands."""

from __future__ import annotations

from pathlib import Path

import pytest

from rm_toolkit.data.build import BuildOptions, build
from rm_toolkit.errors import InputError


CASES = Path(__file__).parents[2].parent / "shared" / "cases"
READABLE = (".json", ".jsonl", ".csv", ".tsv", ".xlsx")
GOOD = "Start by looking closely"
# file -> pairs, and of how many the label says that the useful answer is better (None: both are useful, or none is).
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
    "helpsteer2_pref/data.jsonl": r"line 5: `preference_strength` is -100, but is from -3 to 3 .* pass --skip-invalid",
    "mix/nonerej.jsonl": "line 4: `rejected` is null, .* Fix or remove the line, or pass --skip-invalid",
    "strscores/data.jsonl": "line 1: `score_chosen` must be a number, got the string '4.5'",
}


def read(name, **options):
    path = CASES / name
    if not path.is_file():
        pytest.skip(f"the inputs that users bring are not at {CASES}")
    return build("auto", [str(path)], BuildOptions(**{"test_size": 0, "format": "chat"} | options))


@pytest.mark.parametrize("name", READ)
def test_an_input_is_read_without_a_flag_as_its_label_says(name):
    pairs = read(name).datasets["train"]
    number, good = READ[name]
    assert len(pairs) == number
    if good is not None:
        assert sum(row["chosen"][-1]["content"].startswith(GOOD) for row in pairs) == good
        assert sum(row["rejected"][-1]["content"].startswith(GOOD) for row in pairs) == number - good
        assert len(set(pairs["prompt_id"])) == number
    assert all("[{" not in str(row["chosen"][-1]["content"]) for row in pairs)


@pytest.mark.parametrize("name", REFUSED)
def test_an_input_that_cannot_be_read_is_refused_for_what_it_is(name):
    with pytest.raises(InputError, match=REFUSED[name]):
        read(name)


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
