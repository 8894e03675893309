"""Blocks of rows of strings: reading by column gives the same as reading by row, and no wrong row passes."""

from __future__ import annotations

import pytest
from datasets import Dataset

from rm_toolkit.batches.distinct_texts import DistinctTexts, rows_of
from rm_toolkit.batches.preference_rows import as_row
from rm_toolkit.batches.string_rows import string_rows
from rm_toolkit.data.records import RowPlace
from rm_toolkit.errors import InputError


PAIR = {"prompt": "p", "chosen": "a", "rejected": "b"}
RANKED = {"prompt": "p", "completions": ["a", "b"], "scores": [1.0, 0.0]}
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "rows",
    [
        [PAIR, PAIR | {"prompt": "", "chosen": ""}],
        [PAIR | {"score_chosen": 2.0, "score_rejected": 2.0}, PAIR | {"score_chosen": 3.0, "score_rejected": -1.5}],
        [PAIR | {"margin": 0.5, "prompt_id": "x", "domain": "law"}, PAIR | {"margin": None, "prompt_id": "", "domain": "art"}],
        [PAIR | {"tools": None, "rejected_domain": None, "score_chosen": None, "score_rejected": None}],
        [RANKED, RANKED | {"completions": ["c", "d", "e"], "scores": [0.0, 0.0, -2.0]}],
    ],
)  # fmt: skip
def test_columns_give_the_rows_that_each_row_gives(rows):
    ranked = "completions" in rows[0]
    block = {name: [row[name] for row in rows] for name in rows[0]}
    expected = [as_row(row, ranked, RowPlace("data", "row", 1)) for row in rows]
    assert string_rows(block, ranked) == expected


@pytest.mark.parametrize(
    "row",
    [
        PAIR | {"prompt": None},
        PAIR | {"chosen": None},
        PAIR | {"rejected": [{"role": "assistant", "content": "b"}]},
        PAIR | {"rejected_domain": "law"},
        PAIR | {"tools": "[]"},
        PAIR | {"score_chosen": 0.0, "score_rejected": 1.0},
        PAIR | {"score_chosen": NAN, "score_rejected": 0.0},
        PAIR | {"score_chosen": INF, "score_rejected": 0.0},
        PAIR | {"score_chosen": 1.0, "score_rejected": None},
        PAIR | {"score_chosen": 1, "score_rejected": 0},
        RANKED | {"completions": ["a", None]},
        RANKED | {"completions": ["a"], "scores": [1.0]},
        RANKED | {"scores": [1.0, 0.0, 2.0]},
        RANKED | {"scores": [1.0, NAN]},
        RANKED | {"scores": None},
        RANKED | {"completion_domains": ["law", "art"]},
        {"chosen": "a", "rejected": "b"},
    ],
)
def test_a_row_with_more_than_strings_is_left_to_the_rule_of_rows(row):
    assert string_rows({name: [value] for name, value in row.items()}, "completions" in row) is None


def test_a_row_that_is_wrong_in_a_later_block_is_named_by_its_number():
    rows = [PAIR] * 2000 + [PAIR | {"chosen": None}]
    with pytest.raises(InputError, match=r"row 2001: `chosen` is null"):
        list(rows_of(Dataset.from_list(rows), "data", 100))


class _Taken:
    data_format = "text"

    def __init__(self):
        self.texts = []

    def add(self, texts):
        self.texts += texts


def test_equal_texts_share_a_number_wherever_their_prompts_end_and_however_far_apart_they_are():
    encoder = _Taken()
    encoder.tokenizer = None
    texts = DistinctTexts(encoder, "data", None)
    rows = [("p", "a", "b"), ("p", "a", "c"), ("q", "a", "b"), ("", "pa", "b"), ("p", "b", "a"), ("pa", "", "a")]
    numbers = [texts.members(as_row(dict(zip(PAIR, row)), False, RowPlace("data", "row", 1)), 0) for row in rows]
    texts.encode()
    assert numbers == [[0, 1], [0, 2], [3, 4], [0, 5], [1, 0], [0, 6]]
    assert ["".join(text[:2]) for text in encoder.texts] == ["pa", "pb", "pc", "qa", "qb", "b", "paa"]


@pytest.mark.parametrize("length, expected", [(10, [4096, 904]), (3000, [1024] * 4 + [904])])
def test_short_strings_are_encoded_more_at_once_than_long_ones(length, expected):
    encoder = _Taken()
    encoder.tokenizer, sizes = None, []
    encoder.add = lambda batch: sizes.append(len(batch))
    texts = DistinctTexts(encoder, "data", None)
    for number in range(2500):
        row = PAIR | {"chosen": f"{number}".ljust(length, "a"), "rejected": f"{number}".ljust(length, "b")}
        texts.members(as_row(row, False, RowPlace("data", "row", 1)), number)
    texts.encode()
    assert sizes == expected
