"""The toolkit on the published data; skipped if it is not beside the checkout."""

import json

import pytest

from rm_toolkit.data.build import BuildOptions, build
from rm_toolkit.data.mixture import check_overlap, load_datasets


def rows_of(source, path, **options):
    result = build(source, [f"test={path}"], BuildOptions(**options))
    return result.datasets["test"], result.counts["test"]


@pytest.mark.parametrize("form", ["text", "chat"])
def test_raw_hh_gives_the_rows_of_the_published_file(published, form):
    raw, raw_counts = rows_of("hh", published / "raw" / "harmless_base.test.jsonl.gz", format=form)
    ready, ready_counts = rows_of("text-score", published / "published" / "harmless.test.json", format=form)
    assert raw_counts == ready_counts
    assert len(raw) == 1590
    tags = ["domain", "source"]
    assert raw.remove_columns(tags).to_list() == ready.remove_columns(tags).to_list()


@pytest.mark.parametrize(("name", "pairs"), [("helpful", 1693), ("harmless", 1590), ("webgpt", 456)])
def test_prompt_and_completion_are_the_published_text(published, name, pairs):
    path = published / "published" / f"{name}.test.json"
    rows, counts = rows_of("text-score", path, layout="ranked")
    texts = {text for item in json.loads(path.read_text(encoding="utf-8")) for text in item["text"]}
    built = {row["prompt"] + completion for row in rows for completion in row["completions"]}
    assert built <= texts
    assert len(texts - built) <= 2 * (counts.empty + counts.identical + counts.duplicates) + counts.texts_dropped
    assert all(row["prompt"].endswith("Assistant:" if name != "webgpt" else "## Assistant:\n") for row in rows)
    assert rows_of("text-score", path)[1].kept == pairs


def test_dialogues_that_part_before_the_last_turn_keep_the_rest_in_the_completion(published):
    early = 0
    for name in ("helpful", "harmless"):
        path = published / "published" / f"{name}.test.json"
        early += sum("\n\nAssistant:" in row["chosen"] + row["rejected"] for row in rows_of("text-score", path)[0])
        chats, _ = rows_of("text-score", path, format="chat")
        for row in chats:
            roles = [message["role"] for message in row["prompt"] + row["chosen"]]
            assert roles == ["user", "assistant"] * (len(roles) // 2)
    assert early == 11


def test_four_domains_split_the_same_queries(published):
    path = str(published / "published" / "domain_specific_preference.test.json")
    domains = ("academy", "business", "entertainment", "literature")
    specs = {name: {"path": path, "source": "dsp", "domain": name, "test_size": 0.2} for name in domains}
    train, test = load_datasets(specs, "train"), load_datasets(specs, "test")
    assert check_overlap(train, test) == {}
    sizes = {name: (len(train[name]), len(test[name])) for name in domains}
    assert all(sum(both) == 477 and both[1] == 95 for both in sizes.values())


def test_webgpt_ties_stay_in_ranked_rows_and_leave_pairs(published):
    path = published / "published" / "webgpt.test.json"
    ranked, pairs = rows_of("text-score", path, layout="ranked")[1], rows_of("text-score", path)[1]
    assert (ranked.kept, ranked.tied_rows) == (628, 172)
    assert (pairs.kept, pairs.ties) == (456, 172)
