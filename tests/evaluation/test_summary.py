"""Everything that is reported for one model on one test set, worked by hand."""

import math

import numpy as np
import pytest
from datasets import Dataset

from rm_toolkit.errors import InputError
from rm_toolkit.evaluation.intervals import Bootstrap
from rm_toolkit.evaluation.lengths import accuracy_by_length, length_correlation, longer_wins
from rm_toolkit.evaluation.preferences import read_preferences
from rm_toolkit.evaluation.summary import summarize


RANKED = [
    {
        "prompt": "A? ",
        "completions": ["bb", "a", "cccc"],
        "scores": [1.0, 0.0, 0.0],
        "completion_domains": ["law", "art", "sport"],
        "domain": "law",
        "source": "dsp",
        "prompt_id": "1",
    },
    {
        "prompt": "B? ",
        "completions": ["dd", "ee", "f"],
        "scores": [1.0, 1.0, 0.0],
        "completion_domains": None,
        "domain": "law",
        "source": "webgpt",
        "prompt_id": "2",
    },
]


@pytest.fixture
def pairs():
    return read_preferences(Dataset.from_list(RANKED), "set")


def test_pairs_and_tags_of_ranked_rows(pairs):
    texts = [p + c for p, c in zip(pairs.prompts, pairs.completions)]
    listed = [(texts[b], texts[w]) for b, w in zip(pairs.better, pairs.worse)]
    assert listed == [("A? bb", "A? a"), ("A? bb", "A? cccc"), ("B? dd", "B? f"), ("B? ee", "B? f")]
    assert pairs.prompt.tolist() == [0, 0, 1, 1]
    assert pairs.tags["rejected_domain"].tolist() == ["art", "sport", None, None]
    assert pairs.num_label_ties == 1  # dd and ee; art and sport were never compared


def test_the_same_preferences_as_pairs():
    rows = [
        {
            "prompt": "A? ",
            "chosen": "bb",
            "rejected": "a",
            "domain": "law",
            "rejected_domain": "art",
            "prompt_id": "1",
        },
        {"prompt": "A? ", "chosen": "bb", "rejected": "cccc", "domain": "law", "rejected_domain": "sport"},
    ]
    rows[1]["prompt_id"] = "1"
    found = read_preferences(Dataset.from_list(rows), "set")
    assert found.completions == ["bb", "a", "cccc"]
    assert (found.better.tolist(), found.worse.tolist(), found.prompt.tolist()) == ([0, 0], [1, 2], [0, 0])
    assert found.tags["rejected_domain"].tolist() == ["art", "sport"]


def test_rows_without_prompt_and_tags_are_clusters_of_their_own():
    found = read_preferences(
        Dataset.from_list([{"chosen": "x", "rejected": "y"}, {"chosen": "x", "rejected": "z"}]), "s"
    )
    assert (found.prompt.tolist(), found.tags, found.prompts) == ([0, 1], {}, ["", "", ""])


def test_the_fingerprint_is_that_of_texts_and_preferences(pairs):
    again = read_preferences(Dataset.from_list(RANKED), "another name")
    turned = [{**RANKED[0], "scores": [0.0, 1.0, 0.0]}, RANKED[1]]
    assert again.fingerprint() == pairs.fingerprint()
    assert read_preferences(Dataset.from_list(turned), "set").fingerprint() != pairs.fingerprint()


def test_summary_by_hand(pairs):
    #            bb   a    cccc dd   ee   f
    rewards = np.array([1.0, 0.0, 3.0, 2.0, 0.5, 0.5], dtype=np.float32)  # margins 1, -2, 1.5, 0
    found = summarize(pairs, rewards, Bootstrap(resamples=200))
    assert (found["num_pairs"], found["num_prompts"], found["num_ties"], found["num_label_ties"]) == (4, 2, 1, 1)
    assert found["accuracy"]["value"] == pytest.approx(2.5 / 4)
    assert (found["accuracy"]["low"], found["accuracy"]["high"]) == (0.5, 0.75)  # prompt 1: 1 of 2, prompt 2: 1.5 of 2
    assert found["margin"] == pytest.approx(0.125)
    assert found["loss"] == pytest.approx(sum(math.log1p(math.exp(-m)) for m in (1, -2, 1.5, 0)) / 4)
    assert found["longer_wins"] == pytest.approx(3 / 4)
    assert found["reward"]["mean"] == pytest.approx(7 / 6)
    assert found["reward"]["chosen_mean"] == pytest.approx((1 + 1 + 2 + 0.5) / 4)
    assert found["confidence"] == pytest.approx(sum(1 / (1 + math.exp(-m)) for m in (1, 2, 1.5, 0)) / 4)
    parts = found["by_tag"]
    assert set(parts) == {"domain", "source", "rejected_domain"}
    assert parts["domain"]["law"]["accuracy"]["value"] == found["accuracy"]["value"]
    assert parts["source"]["webgpt"]["accuracy"]["value"] == pytest.approx(0.75)
    assert {name: part["accuracy"]["value"] for name, part in parts["rejected_domain"].items()} == {
        "art": 1,
        "sport": 0,
    }
    assert parts["rejected_domain"]["sport"]["longer_wins"] == 0.0
    assert parts["rejected_domain"]["art"]["num_pairs"] == 1


def test_swapping_chosen_and_rejected_turns_the_figures(pairs):
    rewards = np.array([1.0, 0.0, 3.0, 2.0, 0.5, 0.5])
    there, back = (summarize(pairs, r, Bootstrap(resamples=50)) for r in (rewards, -rewards))
    assert there["accuracy"]["value"] == pytest.approx(1 - back["accuracy"]["value"])
    assert there["margin"] == -back["margin"]
    assert there["confidence"] == back["confidence"]
    assert there["length"]["spearman"] == pytest.approx(-back["length"]["spearman"])


def test_length_by_hand():
    better, worse = np.array([1, 4, 10, 5, 30, 0]), np.array([4, 5, 10, 4, 10, 0])
    assert longer_wins(better, worse).tolist() == [0, 0, 0.5, 1, 1, 0.5]
    rows = accuracy_by_length(np.array([1, 0, 1, 1, 0.5, 0]), better, worse)
    # Ratios 0.25, 0.8, 1, 1.25, 3 and, for two empty texts, 1. An edge belongs to the bin above it.
    assert [row["num_pairs"] for row in rows] == [1, 0, 3, 1, 1]
    assert [row["accuracy"] for row in rows] == [1.0, None, pytest.approx(1 / 3), 1.0, 0.5]
    assert [row["longer_wins"] for row in rows] == [0.0, None, pytest.approx(1 / 3), 1.0, 1.0]
    found = length_correlation(np.array([1.0, 2.0, 4.0, 8.0]), np.array([1, 2, 3, 4]))
    assert found["spearman"] == pytest.approx(1.0)
    assert found["pearson"] == pytest.approx(np.corrcoef([1, 2, 4, 8], [1, 2, 3, 4])[0, 1])
    assert length_correlation(np.ones(5), np.arange(5)) == {"pearson": None, "spearman": None}


def test_mistakes_are_named(pairs):
    with pytest.raises(ValueError, match="`rewards` has shape \\(3,\\), but 'set' has 6 texts"):
        summarize(pairs, np.zeros(3), Bootstrap())
    with pytest.raises(InputError, match="test set 'mine' has the columns \\['text'\\]"):
        read_preferences(Dataset.from_list([{"text": "x"}]), "mine")
    with pytest.raises(InputError, match="1 rows but not one pair with a preference \\(1 ties\\)"):
        read_preferences(Dataset.from_list([{"prompt": "", "completions": ["a", "b"], "scores": [1, 1]}]), "mine")


def test_a_tag_with_one_value_is_judged_once(pairs, monkeypatch):
    resampled = []
    intervals = Bootstrap.intervals
    monkeypatch.setattr(
        Bootstrap,
        "intervals",
        lambda self, columns, prompt: resampled.append(len(prompt)) or intervals(self, columns, prompt),
    )
    rewards = np.array([0.0, 1.0, -1.0, 2.0, 0.5, 0.5])
    found = summarize(pairs, rewards, Bootstrap(resamples=50))
    law = found["by_tag"]["domain"]["law"]
    assert law == {key: found[key] for key in law}
    assert sorted(resampled) == [1, 1, 2, 2, 4]  # the whole set, then 'source' (2 values) and 'rejected_domain' (2)
