import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from rm_toolkit.data.build import BuildOptions, build
from rm_toolkit.data.pair_columns import expand_batch
from rm_toolkit.data.pairs import _merge, pairs_to_ranked, ranked_to_pairs


def ranked(rows):
    return Dataset.from_list(
        [
            {
                "prompt": prompt,
                "completions": texts,
                "scores": [float(score) for score in scores],
                "domain": "general",
                "source": "jsonl",
                "prompt_id": prompt,
            }
            for prompt, texts, scores in rows
        ]
    )


def best_first(rows):
    return [sorted(zip(row["scores"], row["completions"]), key=lambda entry: -entry[0]) for row in rows]


def test_every_two_texts_with_different_scores_are_a_pair_the_better_one_chosen():
    pairs = ranked_to_pairs(ranked([("q", ["a", "b", "c"], [1, 3, 1])]))
    assert list(zip(pairs["chosen"], pairs["rejected"])) == [("b", "a"), ("b", "c")]
    assert list(zip(pairs["score_chosen"], pairs["score_rejected"])) == [(3.0, 1.0), (3.0, 1.0)]


@pytest.mark.parametrize(
    "rows",
    [
        [("q", ["a", "b"], [1, 0])],
        [("q", ["a", "b", "c"], [1, 2, 3]), ("r", ["a", "b", "c", "d"], [1, 1, 2, 2])],
        [("q", ["a", "b"], [1, 0]), ("q", ["c", "d"], [1, 0])],  # two rows with one prompt are never merged
        [("q", ["a", "b", "c"], [0, 0, 1]), ("q", ["d", "e", "f"], [0, 5, 1])],
        [("q", ["a", "b"], [1, 0]), ("q", ["a", "c"], [2, 0])],  # a text with two scores
    ],
)
def test_ranked_to_pairs_to_ranked_is_exact(rows):
    before = ranked(rows)
    assert best_first(pairs_to_ranked(ranked_to_pairs(before))) == best_first(before)


@given(st.lists(st.tuples(st.sampled_from("qr"), st.lists(st.integers(0, 3), min_size=2, max_size=5)), max_size=4))
def test_any_rows_come_back_best_first_in_order(rows):
    tags = {"margin": None, "completion_domains": None, "domain": "general", "source": "jsonl", "prompt_id": "x"}
    before = [
        {"prompt": prompt, "completions": [f"{n}.{k}" for k in range(len(scores))], "scores": scores, **tags}
        for n, (prompt, scores) in enumerate(rows)
        if len(set(scores)) > 1
    ]
    batch = {name: [row[name] for row in before] for name in ("prompt", "completions", "scores", *tags)}
    expanded = expand_batch(batch)
    pairs = [dict(zip(expanded, values)) for values in zip(*expanded.values())]
    after = _merge([pair for pair in pairs if pair["score_chosen"] != pair["score_rejected"]])
    assert [sorted(row) for row in best_first(after)] == [sorted(row) for row in best_first(before)]


def test_rows_in_which_all_scores_tie_are_the_only_ones_lost():
    before = ranked([("q", ["a", "b"], [1, 1]), ("r", ["a", "b"], [1, 2])])
    assert best_first(pairs_to_ranked(ranked_to_pairs(before))) == best_first(before.select([1]))


def test_pairs_that_make_no_whole_ranking_stay_rows_of_two():
    pairs = ranked_to_pairs(ranked([("q", ["a", "b", "c"], [3, 2, 1])])).select([0, 1])  # b and c were never compared
    assert [row["completions"] for row in pairs_to_ranked(pairs)] == [["a", "b"], ["a", "c"]]


def test_dsp_pairs_come_back_as_one_row_of_five(write, dsp_items):
    path = write("dsp.json", dsp_items(3))
    options = {layout: BuildOptions(domain="business", test_size=0, layout=layout) for layout in ("pairs", "ranked")}
    pairs, rows = (build("dsp", [path], options[layout]).datasets["train"] for layout in ("pairs", "ranked"))
    assert best_first(pairs_to_ranked(pairs)) == best_first(rows)
    assert set(pairs_to_ranked(pairs)[0]["completion_domains"]) == set(rows[0]["completion_domains"])
    assert ranked_to_pairs(rows).to_list() == pairs.to_list()


def test_rivals_of_a_domain_are_no_ties(write, dsp_items):
    result = build("dsp", [write("dsp.json", dsp_items(3))], BuildOptions(domain="business", test_size=0))
    assert (result.counts["train"].rows, result.counts["train"].ties) == (12, 0)
