"""Distinctive words: the score worked by hand, what is counted, and what is left out."""

import math

import numpy as np
import pytest

from rm_toolkit.inspection.words import distinctive_words, log_odds


def test_the_score_by_hand():
    # Two groups of 10 words; the corpus has the first word 8 times and the second 12; the prior is half of that.
    scores = log_odds(np.array([[6, 4], [2, 8]]))
    own, other = 6 + 4, 2 + 4
    difference = math.log(own / (20 - own)) - math.log(other / (20 - other))
    assert scores[0, 0] == pytest.approx(difference / math.sqrt(1 / own + 1 / other))
    assert scores == pytest.approx(np.array([[1, -1], [-1, 1]]) * scores[0, 0], rel=0.35)
    assert log_odds(np.array([[3, 5], [3, 5]])) == pytest.approx(np.zeros((2, 2)))


def test_more_evidence_for_the_same_share_scores_higher():
    few, many = log_odds(np.array([[6, 4], [2, 8]])), log_odds(np.array([[60, 40], [20, 80]]))
    assert many[0, 0] == pytest.approx(few[0, 0] * math.sqrt(10))


def test_words_of_each_group_best_first_and_each_text_once():
    law = [f"The court's verdict on case {'stone ' * 30 if k == 0 else ''}river" for k in range(30)]
    art = ["Let's paint the river!"] * 30
    found = distinctive_words({"law": law, "art": art})
    assert {word.word for word in found["law"]} == {
        "court's",
        "verdict",
        "case",
    }  # stone: in one text; river: in both groups
    assert {word.word for word in found["art"]} == {"let's", "paint"}
    assert found["art"][0].texts == 30 and found["art"][0].other_texts == 0
    scores = [word.score for word in found["law"]]
    assert scores == sorted(scores, reverse=True) and min(scores) > 1.96
    assert [word.word for word in distinctive_words({"law": law, "art": art}, most=1)["art"]] == ["let's"]


def test_nothing_but_stop_words_gives_no_words():
    assert distinctive_words({"a": ["the of and"] * 5, "b": [""]}) == {"a": [], "b": []}
