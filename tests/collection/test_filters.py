"""The filters, on answers written for them."""

import random
import re

import pytest

from rm_toolkit.collection.filters import (
    REFUSAL_PATTERNS,
    FilterOptions,
    filter_rows,
    is_refusal,
    near_identical,
)
from rm_toolkit.collection.journal import Answer
from rm_toolkit.collection.refusal_patterns import TimedPattern, load_patterns
from rm_toolkit.errors import InputError


PATTERNS = [re.compile(text, re.IGNORECASE | re.DOTALL) for text in REFUSAL_PATTERNS]


def answer(domain, text, finish_reason="stop", refused=False):
    return Answer("key", domain, "query", text, finish_reason, refused)


def varied(number, length=200):
    rng = random.Random(number)
    return "".join(rng.choice("abcdefghij klmnop") for _ in range(length)).strip()


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I’m sorry, but I can’t help with that.",
        "I cannot assist you with this request.",
        "As an AI language model, I don't have access to the weather.",
        "Unfortunately, as an AI, I am not able to draw.",
        "That would violate our guidelines.",
    ],
)
def test_a_refusal_is_seen(text):
    assert is_refusal(text, PATTERNS)


@pytest.mark.parametrize(
    "text",
    [
        "I am sorry to hear that your order is late; we will send another one today.",
        "I can't help but marvel at the sea. As a poet I cannot help feeling small.",
        "GPT is a language model that is trained on text.",
        "Cacti cannot live in the shade.",
        "The story " + "goes on " * 40 + "and then: I'm sorry, but I can't help you, said the wolf.",
    ],
)
def test_what_only_sounds_like_one_is_not(text):
    assert not is_refusal(text, PATTERNS)


def test_near_identical_texts_are_found_whatever_their_case_and_spaces():
    texts = {"a": "Paris is  the capital.", "b": "paris is the capital.", "c": "A city of light, and of rain."}
    assert near_identical(texts, 0.9) == {"a", "b"}
    assert near_identical(texts, 1.0) == {"a", "b"}  # identical answers are never useful
    almost = {"a": "Paris is the capital of France.", "b": "Paris is the capital of France!"}
    assert near_identical(almost, 0.9) == {"a", "b"} and near_identical(almost, 1.0) == set()


def test_a_row_counts_once_and_an_answer_once():
    rows = [
        {"law": answer("law", varied(1)), "art": answer("art", varied(2))},
        {"law": answer("law", ""), "art": answer("art", "", "content_filter")},
        {"law": answer("law", varied(3), "length"), "art": answer("art", varied(4))},
        {"law": answer("law", "The same text."), "art": answer("art", "The same text.")},
        {"law": answer("law", varied(5)), "art": answer("art", varied(6))},
        {"law": answer("law", varied(7), refused=True), "art": answer("art", "")},
    ]
    normals = [None, None, None, None, varied(5), None]
    kept, counts = filter_rows(rows, normals, FilterOptions(), "normal")
    assert kept == [True, False, False, False, False, False] and counts.kept == 1
    assert counts.rows == {"refusal": 2, "truncated": 1, "alike": 2}
    assert counts.answers["refusal"] == {"art": 1, "law": 1} and counts.answers["empty"] == {"law": 1, "art": 1}
    assert counts.answers["alike"] == {"law": 2, "art": 1, "normal": 1}


def test_what_is_to_be_kept_is_kept():
    rows = [{"law": answer("law", varied(3), "length"), "art": answer("art", "I cannot help you.")}]
    assert filter_rows(rows, [None], FilterOptions(keep=("truncated", "refusal")), "normal")[0] == [True]
    assert filter_rows(rows, [None], FilterOptions(keep=("truncated",)), "normal")[1].rows == {"refusal": 1}


def test_an_answer_far_longer_than_those_of_its_own_domain_is_an_outlier():
    lengths = [100, 110, 120, 130, 140] * 5
    rows = [
        {"law": answer("law", varied(k, n)), "art": answer("art", varied(k + 100, 20 * n))}
        for k, n in enumerate(lengths)
    ]
    rows.append({"law": answer("law", varied(98, 2400)), "art": answer("art", varied(99, 2400))})
    kept, counts = filter_rows(rows, [None] * 26, FilterOptions(), "normal")
    assert kept == [True] * 25 + [False] and counts.answers["length"] == {"law": 1}
    assert filter_rows(rows[-5:], [None] * 5, FilterOptions(), "normal")[0] == [True] * 5  # too few rows to judge


def test_own_refusal_patterns_and_a_bad_one(tmp_path):
    path = tmp_path / "patterns.txt"
    path.write_text("# of our model\n\nno puedo ayudar\n")
    options = FilterOptions(refusal_patterns=load_patterns(path))
    rows = [{"law": answer("law", "Lo siento, no puedo ayudar."), "art": answer("art", varied(1))}]
    assert filter_rows(rows, [None], options, "normal")[1].rows == {"refusal": 1}
    path.write_text("fine\n(")
    with pytest.raises(InputError, match=r"line 2: '\(' is not a regular expression"):
        load_patterns(path)


@pytest.mark.parametrize("options", [{"max_similarity": 0}, {"max_similarity": 1.1}, {"length_outliers": 0}])
def test_a_threshold_out_of_range_is_refused(options):
    with pytest.raises(InputError, match="it must be a number above 0"):
        FilterOptions(**options)


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|aa)+$", r"(\s*\w*)*!$", "(.*)*=(.*)*$"])
def test_a_pattern_that_never_ends_is_refused_before_anything_is_asked(tmp_path, pattern):
    path = tmp_path / "patterns.txt"
    path.write_text(f"no way\n{pattern}")
    try:
        (_, accepted) = load_patterns(path)
    except InputError as error:
        assert f"{path}, line 2: the refusal pattern" in str(error) and "takes more than 1 second" in str(error)
    else:  # the library detects that it cannot match; either way, it stays within the limit
        assert TimedPattern(accepted).search("b" * 200) in (True, False)


def test_a_pattern_that_is_slow_on_one_answer_is_named(monkeypatch):
    monkeypatch.setattr("rm_toolkit.collection.refusal_patterns.SECONDS", 0.05)
    with pytest.raises(InputError, match=r"the refusal pattern '\(x\+x\+\)\+y' takes more than .* on 'xxxx"):
        TimedPattern("(x+x+)+y").search("x" * 200)
