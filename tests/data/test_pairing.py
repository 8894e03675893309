"""One rule makes pairs from rows and counts ties: worked by hand, and the same at every entry point."""

import json
import logging
import re

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from hypothesis import given
from hypothesis import strategies as st

from rm_toolkit.batches.replay_plan import join
from rm_toolkit.batches.stream import PreferenceStream
from rm_toolkit.batches.tokenization import tokenize_preferences, tokenize_rows
from rm_toolkit.data.build import BuildOptions, build
from rm_toolkit.data.export import text_score_items
from rm_toolkit.data.mixture import load_datasets, read_uncleaned
from rm_toolkit.data.pairing import label_scores, pair_up, ranked_scores
from rm_toolkit.data.pairs import pairs_to_ranked, ranked_to_pairs
from rm_toolkit.data.records import Place
from rm_toolkit.data.schema import RawRow
from rm_toolkit.data.specs import DatasetSpec
from rm_toolkit.errors import InputError
from rm_toolkit.evaluation.preferences import read_preferences
from rm_toolkit.inspection.counts import as_ranked, count_rows
from rm_toolkit.inspection.inspector import inspect_dataset
from rm_toolkit.models.tokenizer import load_tokenizer


PLACE = Place("my.jsonl", "line", 3)
NAN = float("nan")


# ---- the rule ----


def test_different_scores_are_a_pair_and_equal_ones_a_tie():
    found = pair_up([0.5, 2.0, 0.5, -1.0])
    assert found.pairs == [(1, 0), (0, 3), (1, 2), (1, 3), (2, 3)]  # in file order
    assert found.ties == [(0, 2)]
    assert found.order == [1, 2, 0, 3] and found.first_two == (1, 2)  # among equals, the last in the file comes first
    assert found.best_first() == [(1, 2), (1, 0), (1, 3), (2, 3), (0, 3)]


def test_a_row_whose_best_responses_tie_has_no_first_two():
    assert pair_up([1.0, 1.0, 0.0]).first_two is None
    assert (pair_up([1.0, 1.0]).pairs, pair_up([1.0, 1.0]).ties) == ([], [(0, 1)])


def test_rivals_of_a_domain_do_not_tie_with_each_other_but_with_the_domain():
    writers = ["law", "art", "sport"]
    rivals = pair_up([1.0, 0.0, 0.0], writers, "law")
    assert (rivals.pairs, rivals.ties) == ([(0, 1), (0, 2)], [])
    assert pair_up([0.0, 0.0, 0.0], writers, "law").ties == [(0, 1), (0, 2)]
    assert pair_up([0.0, 0.0], writers[1:], "law").ties == []  # the domain's own response was empty and was dropped


@given(st.lists(st.integers(0, 3), min_size=2, max_size=6))
def test_every_two_responses_are_one_pair_or_one_tie(scores):
    found = pair_up(scores)
    assert sorted(tuple(sorted(both)) for both in found.pairs + found.ties) == [
        (i, j) for i in range(len(scores)) for j in range(i + 1, len(scores))
    ]
    assert all(scores[better] > scores[worse] for better, worse in found.pairs)
    assert sorted(found.best_first()) == sorted(found.pairs)
    place = found.order.index
    assert found.best_first() == sorted(found.pairs, key=lambda pair: (place(pair[0]), place(pair[1])))


def test_scores_of_a_pair_are_its_own_or_one_and_zero():
    assert label_scores(None, None, PLACE) == [1.0, 0.0]
    assert label_scores(2, np.float32(0.5), PLACE) == [2.0, 0.5]
    assert label_scores(3.0, 3.0, PLACE) == [3.0, 3.0]


REFUSED = {
    "reversed": (0.0, 1.0, "`score_chosen` (0) is below `score_rejected` (1); the labels contradict the scores"),
    "one missing": (2.0, None, "`score_rejected` must be a number, got null"),
    "the other missing": (None, 2.0, "`score_chosen` must be a number, got null"),
    "not finite": (NAN, 1.0, "`score_chosen` is nan; scores must be finite"),
    "infinite": (1.0, -float("inf"), "`score_rejected` is -inf; scores must be finite"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_scores_that_state_no_preference_are_refused(case):
    chosen, rejected, message = REFUSED[case]
    with pytest.raises(InputError, match="my.jsonl, line 3: " + re.escape(message)):
        label_scores(chosen, rejected, PLACE)


@pytest.mark.parametrize(
    ("completions", "scores", "message"),
    [
        (["a", "b"], [1.0, NAN], r"`scores\[1\]` is nan; scores must be finite"),
        (["a", "b"], [1.0, None], r"`scores\[1\]` must be a number, got null"),
        (["a", "b"], [1.0], "`completions` has 2 entries and `scores` has 1"),
        (["a"], [1.0], "`completions` has 1 entry; a preference needs at least two"),
    ],
)
def test_ranked_rows_that_state_no_preference_are_refused(completions, scores, message, tokenizer):
    with pytest.raises(InputError, match="my.jsonl, line 3: " + message):
        ranked_scores(completions, scores, PLACE)
    rows = [{"prompt": "p ", "completions": ["a", "b"], "scores": [1.0, 0.0]}]
    rows.append({"prompt": "q ", "completions": completions, "scores": scores})
    tagged = [{**row, "domain": "general", "source": "jsonl", "prompt_id": row["prompt"]} for row in rows]
    for read in (
        lambda: tokenize_preferences(Dataset.from_list(rows), tokenizer, max_length=32, show_progress=False),
        lambda: read_preferences(Dataset.from_list(rows), "mine"),
        lambda: ranked_to_pairs(Dataset.from_list(tagged)),
    ):
        with pytest.raises(InputError, match="row 2: " + message):
            read()


# ---- the same rows at every entry point ----


@pytest.fixture(scope="module")
def tokenizer(base_model):
    tokenizer = load_tokenizer(base_model())
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.unk_token
    return tokenizer


def pair(number, chosen, rejected):
    """A row with these scores, whose better text contains `good`."""
    tags = {"domain": "law", "source": "jsonl", "prompt_id": str(number)}
    scores = {"score_chosen": chosen, "score_rejected": rejected}
    return {"prompt": f"{number} ", "chosen": "good", "rejected": "bad", **scores, **tags}


@pytest.fixture
def enter(tokenizer, tmp_path):
    """`enter(name, rows, **spec)`: (pairs, label ties, whether `good` is better in all pairs) at one entry point."""

    def in_memory(rows):
        data = tokenize_preferences(Dataset.from_list(rows), tokenizer, max_length=32, show_progress=False)
        return of_tokens(data)

    def of_tokens(data):
        good = {tokenizer.decode(data.sequence(k)).split()[-1] for k in data.better}
        return len(data), data.num_label_ties, good <= {"good"}

    def stream(rows):
        found = []

        def tokenize(read):
            found.append(tokenize_rows(read, tokenizer, max_length=32))
            return found[-1]

        PreferenceStream(Dataset.from_list(rows).to_iterable_dataset(), tokenize).available(100)
        return of_tokens(found[0])

    def evaluated(rows):
        pairs = read_preferences(Dataset.from_list(rows), "mine")
        return len(pairs), pairs.num_label_ties, {pairs.completions[k] for k in pairs.better} <= {"good"}

    def inspected(rows):
        ranked = as_ranked(Dataset.from_list(rows))
        counts = count_rows(ranked)
        pairs = read_preferences(ranked, "mine")
        assert (counts["clean_pairs"], counts["ties"]) == (len(pairs), pairs.num_label_ties)
        return counts["clean_pairs"], counts["ties"], {pairs.completions[k] for k in pairs.better} <= {"good"}

    def built(rows, **spec):
        folder = tmp_path / "built"
        if not folder.exists():
            DatasetDict({"train": Dataset.from_list(rows)}).save_to_disk(folder)
        return {"path": str(folder), **spec}

    def raw(rows, **spec):
        path = tmp_path / "rows.jsonl"
        kept = [{name: value for name, value in row.items() if value is not None} for row in rows]
        path.write_text("\n".join(map(json.dumps, kept)))
        columns = {"prompt": "prompt", "domain": "domain"}
        return {"path": str(path), "source": "jsonl", "columns": columns, **spec}

    def loaded(spec, streaming=False):
        data = load_datasets({"mine": spec}, "train", streaming=streaming, cache_dir=str(tmp_path / "cache"))["mine"]
        return in_memory(list(data))

    ways = {
        "training": in_memory,
        "training on a stream": stream,
        "evaluation": evaluated,
        "inspection": inspected,
        "built folder": lambda rows, **spec: loaded(built(rows, **spec)),
        "built folder as ranked rows": lambda rows, **spec: loaded(built(rows, layout="ranked", **spec)),
        "built folder as a stream": lambda rows, **spec: loaded(built(rows, **spec), streaming=True),
        "raw file": lambda rows, **spec: loaded(raw(rows, **spec)),
        "raw file as a stream": lambda rows, **spec: loaded(raw(rows, **spec), streaming=True),
    }
    return lambda name, rows, **spec: ways[name](rows, **spec)


WAYS = [
    "training",
    "training on a stream",
    "evaluation",
    "inspection",
    "built folder",
    "built folder as ranked rows",
    "built folder as a stream",
    "raw file",
    "raw file as a stream",
]
SPECS = WAYS[4:]


@pytest.mark.parametrize("way", WAYS)
def test_equal_scores_are_a_label_tie_everywhere(way, enter):
    assert enter(way, [pair(0, 2.0, 1.0), pair(1, 1.0, 1.0)]) == (1, 1, True)


@pytest.mark.parametrize("way", WAYS)
def test_without_scores_the_label_alone_counts_everywhere(way, enter):
    assert enter(way, [pair(0, None, None), pair(1, None, None)]) == (2, 0, True)


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("way", WAYS)
def test_contradicting_scores_are_refused_everywhere_naming_the_row(way, case, enter):
    chosen, rejected, message = REFUSED[case]
    where = r"rows\.jsonl, line 2: " if "raw" in way else "built.*, row 2: " if "built" in way else ", row 2: "
    if way == "inspection":
        where = "the dataset, row 2: "
    with pytest.raises(InputError, match=where + re.escape(message)):
        enter(way, [pair(0, 2.0, 1.0), pair(1, chosen, rejected)])


@pytest.mark.parametrize("way", SPECS)
def test_skip_invalid_leaves_them_out_and_counts_them(way, enter, caplog):
    rows = [pair(0, 2.0, 1.0), pair(1, 0.0, 1.0), pair(2, 1.0, 1.0), pair(3, 1.0, None)]
    assert enter(way, rows, skip_invalid=True) == (1, 1, True)
    if "stream" in way:
        assert caplog.text.count("left out: ") == 2 and "row 2: `score_chosen`" in caplog.text.replace("line", "row")
    else:
        assert "left out: {'invalid': 2}" in caplog.text


def test_a_file_of_nothing_else_is_refused(enter):
    for way in ("built folder", "raw file"):
        with pytest.raises(InputError, match=r"none of the 2 (rows|records) can be used. The first: .* 1: `score_cho"):
            enter(way, [pair(0, 0.0, 1.0), pair(1, 0.0, 1.0)], skip_invalid=True)


def test_build_data_counts_refused_rows_and_ties(write, tmp_path):
    keys = ("prompt", "chosen", "rejected", "score_chosen", "score_rejected")
    rows = [{key: row[key] for key in keys} for row in (pair(0, 2.0, 1.0), pair(1, 0.0, 1.0), pair(2, 1.0, 1.0))]
    path = write("rows.jsonl", rows)
    for layout, ties in (("pairs", "ties"), ("ranked", "tied_rows")):
        options = {"layout": layout, "test_size": 0, "cache_dir": str(tmp_path / "cache")}
        with pytest.raises(InputError, match=r"line 2: `score_chosen` .* is below"):
            build("jsonl", [path], BuildOptions(**options))
        counts = build("jsonl", [path], BuildOptions(**options, skip_invalid=True)).counts["train"]
        assert (counts.read, counts.invalid, getattr(counts, ties)) == (3, 1, 1)


def test_pairs_become_ranked_rows_without_another_order():
    both = [pair(0, 2.0, 1.0), pair(1, 1.0, 1.0), pair(2, None, None)]
    ranked = pairs_to_ranked(Dataset.from_list(both))
    assert ranked["completions"] == [["good", "bad"]] * 3
    assert ranked["scores"] == [[2.0, 1.0], [1.0, 1.0], [1.0, 0.0]]
    with pytest.raises(InputError, match=r"the dataset, row 2: `score_chosen` .* is below"):
        pairs_to_ranked(Dataset.from_list([pair(0, 2.0, 1.0), pair(1, 0.0, 1.0)]))


def test_inspection_refuses_what_training_refuses_and_can_skip_it(tmp_path, caplog):
    rows = [pair(0, 2.0, 1.0), pair(1, 0.0, 1.0), pair(2, 1.0, 1.0)]
    DatasetDict({"train": Dataset.from_list(rows)}).save_to_disk(tmp_path / "built")
    spec = {"path": str(tmp_path / "built")}
    with pytest.raises(InputError, match=r"built, split 'train', row 2: `score_chosen` .* is below"):
        inspect_dataset(spec, show_progress=False)
    caplog.set_level(logging.INFO, logger="rm_toolkit")
    counts = inspect_dataset({**spec, "skip_invalid": True}, show_progress=False).result["counts"]["all"]
    assert (counts["pairs"], counts["ties"], counts["clean_pairs"]) == (2, 1, 1)
    assert "left out: {'invalid': 1}" in caplog.text


# ---- a domain against its rivals ----


@pytest.mark.parametrize("layout", ["ranked", "pairs"])
def test_rivals_ties_are_counted_nowhere(layout, write, dsp_items, tokenizer, tmp_path):
    spec = {"path": write("dsp.json", dsp_items(3)), "source": "dsp", "domain": "business"}
    cache = {"cache_dir": str(tmp_path / "cache")}
    data = load_datasets({"mine": {**spec, "layout": layout}}, "test", **cache)["mine"]
    result = build("dsp", [spec["path"]], BuildOptions(domain="business", test_size=0, layout=layout, **cache))
    result.datasets.save_to_disk(tmp_path / "built")
    again = load_datasets({"mine": str(tmp_path / "built")}, "train")["mine"]
    streamed = load_datasets({"mine": {**spec, "layout": layout}}, "train", streaming=True)["mine"]
    for rows in (data, again, Dataset.from_list(list(streamed))):
        tokens = tokenize_preferences(rows, tokenizer, max_length=32, show_progress=False)
        assert (len(tokens), tokens.num_label_ties) == (12, 0)
        pairs = read_preferences(rows, "mine")
        assert (len(pairs), pairs.num_label_ties) == (12, 0)
    assert result.counts["train"].ties == 0
    counts = count_rows(as_ranked(read_uncleaned(DatasetSpec.parse(spec, "mine"), "train", **cache)))
    assert (counts["pairs"], counts["ties"]) == (12, 0)


def test_replayed_data_keeps_its_count_of_ties(tokenizer):
    both = [
        tokenize_preferences(Dataset.from_list(rows), tokenizer, max_length=32, show_progress=False)
        for rows in ([pair(0, 1.0, 1.0), pair(1, 2.0, 1.0)], [pair(0, 1.0, 1.0), pair(1, 2.0, 2.0)])
    ]
    assert join(*both).num_label_ties == 3


def test_the_originals_pairs_are_exported_in_file_order():
    items = text_score_items(RawRow("q ", ["a", "b", "c"], [1.0, 3.0, 1.0]), "none", "pairs")
    assert [item["text"] for item in items] == [["q b", "q a"], ["q b", "q c"]]
