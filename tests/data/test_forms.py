"""Every known form is recognized by its columns and read as its labels say, without a flag."""

from __future__ import annotations

import json
from pathlib import Path

import pandas
import pyarrow
import pyarrow.parquet
import pytest

from rm_toolkit.cli import main
from rm_toolkit.data.build import BuildOptions, build
from rm_toolkit.data.export import export_text_score
from rm_toolkit.data.mixture import load_datasets
from rm_toolkit.data.recognition import preview, recognize, source_named
from rm_toolkit.data.records import RecordFile
from rm_toolkit.data.sources import SOURCES
from rm_toolkit.data.sources.forms import FORMS
from rm_toolkit.data.templates import prompt_digest
from rm_toolkit.errors import InputError


GOOD, BAD, FAIR = "Soak it overnight.", "No idea.", "Wash it."
ASKED = "How do I clean a pan?"
SYSTEM = "Answer as a cook."


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def vote(winner, **more):
    sides = {"conversation_a": [user(ASKED), assistant(GOOD)], "conversation_b": [user(ASKED), assistant(BAD)]}
    return {**sides, "winner": winner, **more}


def pairwise(selected, **more):
    return {
        "result": [{"from_name": "cmp", "to_name": "a1,a2", "type": "pairwise", "value": {"selected": selected}}],
        **more,
    }


def ranker(*order, bucket="rank", **buckets):
    value = {"ranker": {bucket: list(order), **buckets}}
    return {"result": [{"from_name": "rank", "to_name": "list", "type": "ranker", "value": value}]}


def ranked(*ranks, status="submitted"):
    return {"user_id": "u", "value": [{"rank": r, "value": f"r{n}"} for n, r in enumerate(ranks, 1)], "status": status}


def rating(value, status="submitted"):
    return {"user_id": "u", "value": value, "status": status}


def message(identity, parent, text, role, rank=None, **more):
    return {"message_id": identity, "parent_id": parent, "text": text, "role": role, "rank": rank, **more}


TREE = message("m", None, ASKED, "prompter")
REPLIES = [message("a", "m", BAD, "assistant", 1), message("b", "m", GOOD, "assistant", 0)]
TASK = {"data": {"prompt": ASKED, "a1": BAD, "a2": GOOD}}
LISTED = {
    "data": {
        "prompt": ASKED,
        "items": [{"id": "a", "title": "1", "body": BAD}, {"id": "b", "title": "2", "body": GOOD}],
    }
}
SHP = {
    "history": ASKED,
    "human_ref_A": BAD,
    "human_ref_B": GOOD,
    "labels": 0,
    "score_A": 4,
    "score_B": 12,
    "score_ratio": 3.0,
}
PKU = {"prompt": ASKED, "response_0": BAD, "response_1": GOOD, "better_response_id": 1, "safer_response_id": 0}
FEEDBACK = {
    "instruction": ASKED,
    "completions": [
        {"response": BAD, "overall_score": 3.0, "fine-grained_score": 1.5},
        {"response": GOOD, "overall_score": 8.0, "fine-grained_score": 4.5},
    ],
}
CONVERSATIONS = {"chosen": [user(ASKED), assistant(GOOD)], "rejected": [user(ASKED), assistant(BAD)]}
FIELDS = {"prompt": ASKED, "r1": BAD, "r2": GOOD}
# Form -> (source, rows); in each, GOOD is better than BAD.
EXAMPLES = {
    "Alpaca": ("alpaca", {"instruction": ASKED, "input": "", "chosen": GOOD, "rejected": BAD}),
    "Alpaca without input": ("alpaca", {"instruction": ASKED, "chosen": GOOD, "rejected": BAD}),
    "Orca": ("alpaca", {"system": "", "question": ASKED, "chosen": GOOD, "rejected": BAD}),
    "Orca of distilabel": ("alpaca", {"system": "", "input": ASKED, "chosen": GOOD, "rejected": BAD, "status": "swapped"}),
    "question": ("alpaca", {"question": ASKED, "chosen": GOOD, "rejected": BAD}),
    "ShareGPT as pandas writes it into CSV": (
        "sharegpt",
        {
            "conversations": str([{"from": "human", "value": ASKED}]),
            "chosen": str({"from": "gpt", "value": GOOD}),
            "rejected": str({"from": "gpt", "value": BAD}),
        },
    ),
    "ShareGPT": (
        "sharegpt",
        {
            "conversations": [{"from": "human", "value": ASKED}],
            "chosen": {"from": "gpt", "value": GOOD},
            "rejected": {"from": "gpt", "value": BAD},
        },
    ),
    "messages": ("sharegpt", {"messages": [user(ASKED)], "chosen": assistant(GOOD), "rejected": assistant(BAD)}),
    "OASST trees": ("oasst", {"message_tree_id": "t", "prompt": {**TREE, "replies": REPLIES}}),
    "OASST messages": ("oasst", [TREE, *REPLIES]),
    "Nectar": (
        "nectar",
        {
            "prompt": f"\n\nHuman: {ASKED}\n\nAssistant: ",
            "answers": [{"answer": BAD, "model": "m", "rank": 2.0}, {"answer": GOOD, "model": "n", "rank": 1.0}],
        },
    ),
    "SHP": ("shp", SHP),
    "PKU": ("pku-saferlhf", PKU),
    "arena": ("arena", vote("model_a", turn=1, model_a="m", model_b="n")),
    "arena of parts": (
        "arena",
        {
            f"conversation_{side}": [
                {"role": role, "content": [{"type": "text", "text": text, "image": None}]}
                for role, text in (("user", ASKED), ("assistant", answer))
            ]
            for side, answer in (("a", BAD), ("b", GOOD))
        }
        | {"winner": "model_b"},
    ),
    "arena, JSON text": (
        "arena",
        {
            "prompt": json.dumps([ASKED]),
            "response_a": json.dumps([BAD]),
            "response_b": json.dumps([GOOD]),
            "winner_model_a": 0,
            "winner_model_b": 1,
            "winner_tie": 0,
        },
    ),
    "arena, plain": ("arena", {"prompt": ASKED, "response_a": GOOD, "response_b": BAD, "winner": "model_a"}),
    "Argilla ranking": ("argilla", {**FIELDS, "rank": [ranked(2, 1)], "rank-suggestion": [{"rank": 1, "value": "r1"}]}),
    "Argilla choice": ("argilla", {**FIELDS, "best": [{"user_id": "u", "value": "r2", "status": "submitted"}]}),
    "Argilla titles": ("argilla", {**FIELDS, "best": [{"user_id": "u", "value": "R-2", "status": "submitted"}]}),
    "Argilla ratings": ("argilla", {**FIELDS, "rating-r1": [rating(2)], "rating-r2": [rating(4), rating(0, status="draft")]}),
    "Argilla 2": ("argilla", {**FIELDS, "rank.responses": [["r2", "r1"]], "rank.responses.status": ["submitted"]}),
    "Argilla nested": (
        "argilla",
        {"fields": FIELDS, "responses": [{"values": {"best": {"value": "r2"}}, "status": "submitted", "user_id": "u"}]},
    ),
    "Argilla 2 nested": ("argilla", {"fields": FIELDS, "responses": {"best": [{"value": "r2", "user_id": "u"}]}}),
    "Label Studio": ("label-studio", {**TASK, "annotations": [pairwise("right", was_cancelled=False)]}),
    "Label Studio choices": (
        "label-studio",
        {**TASK, "annotations": [{"result": [{"from_name": "c", "type": "choices", "value": {"choices": ["a2"]}}]}]},
    ),
    "Label Studio ratings": (
        "label-studio",
        {
            **TASK,
            "annotations": [
                {
                    "result": [
                        {"from_name": f"s{n}", "to_name": f"a{n}", "type": "rating", "value": {"rating": 2 * n}}
                        for n in (1, 2)
                    ]
                }
            ],
        },
    ),
    "Label Studio ranker": ("label-studio", {**LISTED, "annotations": [ranker("b", "a"), ranker("b", "a")]}),
    "distilabel": ("distilabel", {"instruction": ASKED, "generations": [BAD, GOOD], "ratings": [1, 5]}),
    "Argilla preferences": (
        "distilabel",
        {"instruction": ASKED, "chosen_response": GOOD, "rejected_response": BAD, "chosen_avg_rating": 4.5, "rejected_avg_rating": 2},
    ),
    "Capybara": (
        "distilabel",
        {
            "source": "a pipeline",
            "conversation": [{"input": ASKED, "output": GOOD}],
            "prompt": ASKED,
            "chosen": [user(ASKED), assistant(GOOD)],
            "rejected": [user(ASKED), assistant(BAD)],
            "rating_chosen": 5.0,
            "rating_rejected": 3.0,
        },
    ),
    "rated pairs": ("distilabel", {**CONVERSATIONS, "source": "s", "prompt": ASKED, "chosen-rating": 5.0, "rejected-rating": 2.0}),
    "scored pairs": ("distilabel", {**CONVERSATIONS, "chosen_score": 0.3, "rejected_score": -12.5}),
    "UltraFeedback": ("ultrafeedback", FEEDBACK),
    "UltraFeedback, binarized": (
        "preference",
        {
            "prompt": ASKED,
            "prompt_id": "7",
            "chosen": [user(ASKED), assistant(GOOD)],
            "rejected": [user(ASKED), assistant(BAD)],
            "messages": [user(ASKED), assistant(GOOD)],
            "score_chosen": 8.0,
            "score_rejected": 3.0,
        },
    ),
    "HelpSteer 2": (
        "helpsteer",
        [
            {"prompt": ASKED, "response": text, "helpfulness": score, "correctness": 3, "coherence": 4}
            for text, score in ((BAD, 1), (GOOD, 4))
        ],
    ),
    "HelpSteer 2 preferences": (
        "helpsteer",
        {"prompt": ASKED, "response_1": BAD, "response_2": GOOD, "preference_strength": 2, "preference_statement": "s"},
    ),
    "HelpSteer 3": (
        "helpsteer",
        {
            "context": [user(ASKED)],
            "response1": GOOD,
            "response2": BAD,
            "overall_preference": -1,
            "individual_preference": [{"score": 1}],
        },
    ),
    "Skywork": ("preference", {"chosen": [user(ASKED), assistant(GOOD)], "rejected": [user(ASKED), assistant(BAD)], "source": "s"}),
    "TRL": ("preference", {"prompt": ASKED, "chosen": GOOD, "rejected": BAD}),
    "conversations as JSON text": (
        "preference",
        {
            "prompt": ASKED,
            "chosen": json.dumps([user(ASKED), assistant(GOOD)]),
            "rejected": json.dumps([user(ASKED), assistant(BAD)]),
        },
    ),
    "conversations as pandas writes them": (
        "preference",
        {"chosen": str([user(ASKED), assistant(GOOD)]), "rejected": str([user(ASKED), assistant(BAD)])},
    ),
    "HH": ("hh", {"chosen": f"\n\nHuman: {ASKED}\n\nAssistant: {GOOD}", "rejected": f"\n\nHuman: {ASKED}\n\nAssistant: {BAD}"}),
    "WebGPT": ("webgpt", {"question": {"full_text": ASKED}, "answer_0": BAD, "answer_1": GOOD, "score_0": -1, "score_1": 1}),
    "GPT-4-LLM": ("gpt4llm", {"user_input": ASKED, "completion_a": GOOD, "completion_b": BAD}),
    "ranks": ("preference", {"prompt": ASKED, "completions": [BAD, GOOD], "ranks": [2, 1]}),
    "ranked rows": ("preference", [{"prompt": ASKED, "response": t, "rank": r} for t, r in ((BAD, 2), (GOOD, 1))]),
    "lists of ranks": ("ranked-lists", {"instruction": ASKED, "responses": [BAD, GOOD], "ranks": [2, 1]}),
    "lists of scores": ("ranked-lists", {"question": ASKED, "answers": [BAD, GOOD], "scores": [0.1, 0.9]}),
}  # fmt: skip


@pytest.fixture
def read(write):
    """`read(rows, **options)`: the pairs and counts of a build with `auto`, without a test split."""

    def go(rows, source="auto", **options):
        path = write("rows.jsonl", rows if isinstance(rows, list) else [rows])
        result = build(source, [path], BuildOptions(**{"test_size": 0, "format": "chat"} | options))
        return result.datasets["train"].to_list(), result.notes.get("train", {})

    return go


@pytest.fixture
def look(write):
    """`look(rows, **options)`: the first row as `auto` reads it, without a build."""

    def go(rows, source="auto", format="chat", **options):
        path = write("rows.jsonl", rows if isinstance(rows, list) else [rows])
        options = BuildOptions(**options)
        return preview(source_named(source, [path], options), RecordFile(path), options, format)

    return go


@pytest.mark.parametrize("form", EXAMPLES)
def test_a_known_form_is_read_as_its_label_says(read, look, form):
    source, rows = EXAMPLES[form]
    ((pair,), _) = read(rows)
    assert (pair["prompt"], pair["chosen"], pair["rejected"]) == ([user(ASKED)], [assistant(GOOD)], [assistant(BAD)])
    assert pair["source"] == source
    text = look(rows, format="text")
    best = text.completions[text.scores.index(max(text.scores))]
    assert text.prompt.count(ASKED) == 1 and GOOD in best and ASKED not in best
    assert prompt_digest(text.prompt, text.completions) == pair["prompt_id"]


@pytest.mark.parametrize("form", EXAMPLES)
def test_a_form_in_parquet_is_read_as_in_json(look, tmp_path, form):
    _, rows = EXAMPLES[form]
    path = str(tmp_path / "rows.parquet")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows if isinstance(rows, list) else [rows]), path)
    options = BuildOptions()
    found = preview(source_named("auto", [path], options), RecordFile(path), options, "chat")
    expected = look(rows)
    assert (found.prompt, found.completions, found.scores) == (expected.prompt, expected.completions, expected.scores)


CELLS = ["Alpaca", "Orca", "SHP", "PKU", "arena, JSON text", "arena, plain", "HelpSteer 2", "HelpSteer 2 preferences"]
CELLS += ["TRL", "conversations as JSON text", "ShareGPT", "HH", "ranks", "ranked rows", "lists of scores", "Skywork"]


@pytest.mark.parametrize("form", CELLS)
def test_a_form_in_cells_of_csv_is_read_as_in_json(look, tmp_path, form):
    _, rows = EXAMPLES[form]
    path = str(tmp_path / "rows.csv")
    pandas.DataFrame(rows if isinstance(rows, list) else [rows]).to_csv(path, index=False)
    options = BuildOptions()
    found = preview(source_named("auto", [path], options), RecordFile(path), options, "chat")
    expected = look(rows)
    assert (found.prompt, found.completions, found.scores) == (expected.prompt, expected.completions, expected.scores)


def test_every_form_of_the_table_has_a_source_and_columns_of_its_own():
    assert {form.source for form in FORMS} <= SOURCES.keys()
    assert len({(form.name, form.columns) for form in FORMS}) == len(FORMS)


def test_the_page_lists_every_source():
    page = (Path(__file__).parents[2] / "data" / "README.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in page for name in SOURCES)


def test_a_recipe_reads_a_known_form_without_its_source_and_says_so(write, caplog):
    path = write("rows.jsonl", [PKU])
    row = load_datasets({"mine": path}, "train")["mine"][0]
    assert (row["source"], row["scores"]) == ("pku-saferlhf", [0.0, 1.0])
    assert "rows.jsonl: read as PKU-SafeRLHF (source: pku-saferlhf): prompt; better_response_id says" in caplog.text
    row = load_datasets({"mine": {"path": path, "label": "safer"}}, "train")["mine"][0]
    assert row["scores"] == [1.0, 0.0]
    (streamed,) = load_datasets({"mine": {"path": path, "streaming": True}}, "train").values()
    assert next(iter(streamed))["source"] == "pku-saferlhf"


def test_instruction_input_system_and_history_make_one_prompt(read):
    row = {"instruction": ASKED, "input": "It is of iron.", "system": SYSTEM, "history": [["Hi", "Hello"]]}
    row |= {"chosen": GOOD, "rejected": BAD}
    ((pair,), _) = read(row)
    asked = user(f"{ASKED}\nIt is of iron.")
    assert pair["prompt"] == [{"role": "system", "content": SYSTEM}, user("Hi"), assistant("Hello"), asked]
    ((pair,), _) = read(row, format="text")
    turns = (
        "## Human:\nHi\n\n## Assistant:\nHello\n\n## Human:\nHow do I clean a pan?\nIt is of iron.\n\n## Assistant:\n"
    )
    assert pair["prompt"] == f"{SYSTEM}\n\n{turns}"
    with pytest.raises(InputError, match=r"line 1: `history\[0\]` must be \[question, answer\]"):
        read({**row, "history": ["Hi"]})


def test_a_column_that_is_empty_in_the_first_row_is_read_in_a_later_one(read):
    first = {"instruction": ASKED, "chosen": GOOD, "rejected": BAD}
    pairs, _ = read([first, {**first, "input": "Of iron."}])
    assert [pair["prompt"][0]["content"] for pair in pairs] == [ASKED, f"{ASKED}\nOf iron."]


def test_a_system_text_stands_before_a_prompt_in_both_formats(read):
    row = {"system": SYSTEM, "question": ASKED, "chosen": GOOD, "rejected": BAD}
    assert read(row)[0][0]["prompt"] == [{"role": "system", "content": SYSTEM}, user(ASKED)]
    assert read(row, format="text")[0][0]["prompt"] == f"{SYSTEM}\n\n## Human:\n{ASKED}\n\n## Assistant:\n"
    assert read(row, format="text", template="none")[0][0]["prompt"] == f"{SYSTEM}\n\n{ASKED}"


def test_tools_of_sharegpt_become_tool_calls(read):
    row = {
        "conversations": [
            {"from": "human", "value": "Weather?"},
            {"from": "function_call", "value": '{"name": "weather", "arguments": {"place": "Rome"}}'},
            {"from": "observation", "value": "sunny"},
        ],
        "tools": '[{"type": "function", "function": {"name": "weather"}}]',
        "chosen": {"from": "gpt", "value": "Sunny."},
        "rejected": {"from": "gpt", "value": "Rain."},
    }
    ((pair,), _) = read(row)
    calls = [{"type": "function", "function": {"name": "weather", "arguments": {"place": "Rome"}}}]
    assert pair["prompt"][1] == {"role": "assistant", "content": None, "tool_calls": calls}
    assert pair["prompt"][2] == {"role": "tool", "content": "sunny"}
    assert pair["tools"] == [{"type": "function", "function": {"name": "weather"}}]
    with pytest.raises(InputError, match="message 1: is `from` 'narrator', which is none of"):
        read({**row, "conversations": [{"from": "narrator", "value": "x"}]})


TIES = {
    "arena": vote("tie"),
    "arena, changed its mind": vote("tie (inconsistent)"),
    "arena, both bad": vote("tie (bothbad)"),
    "arena, both bad in its newer name": vote("both_bad"),
    "Argilla": {**FIELDS, "rank": [ranked(1, 1)]},
    "Argilla, two people": {**FIELDS, "rank": [ranked(1, 2), ranked(2, 1)]},
    "Label Studio, two people": {**TASK, "annotations": [pairwise("left"), pairwise("right")]},
    "Label Studio, two orders": {**LISTED, "annotations": [ranker("a", "b"), ranker("b", "a")]},
    "HelpSteer": {"prompt": ASKED, "response_1": BAD, "response_2": GOOD, "preference_strength": 0},
    "Orca": {"system": "", "input": ASKED, "chosen": GOOD, "rejected": BAD, "status": "tie"},
    "Nectar": {"prompt": ASKED, "answers": [{"answer": text, "rank": 1} for text in (GOOD, BAD)]},
}


@pytest.mark.parametrize("form", TIES)
def test_a_tie_stays_a_tie(look, form):
    row = look(TIES[form])
    assert len(set(row.scores)) == 1 and len(row.completions) == 2


def test_flags_may_be_true_and_false(look):
    row = {**EXAMPLES["arena, JSON text"][1], "winner_model_a": True, "winner_model_b": False, "winner_tie": False}
    assert look(row).scores == [1.0, 0.0]
    with pytest.raises(InputError, match="`winner` must be one of"):
        look(vote(True))


def test_a_broken_first_line_does_not_hide_the_form(write):
    path = write("rows.jsonl", "{broken\n" + json.dumps(PKU) + "\n")
    assert recognize(RecordFile(path)).source == "pku-saferlhf"
    with pytest.raises(InputError, match="line 1, column 2: not valid JSON"):
        build("auto", [path], BuildOptions(test_size=0))
    assert build("auto", [path], BuildOptions(test_size=0, skip_invalid=True)).counts["train"].invalid == 1
    with pytest.raises(InputError, match="line 1, column 2: not valid JSON"):
        recognize(RecordFile(write("broken.jsonl", "{broken\n{broken too\n")))


def test_an_export_tells_what_it_left_out(write, tmp_path, caplog):
    path = write("rows.jsonl", [SHP, {**SHP, "score_ratio": 1.2}])
    options = BuildOptions(min_score_ratio=2)
    assert export_text_score("auto", [path], tmp_path / "out.json", "text-score", options, "ranked", False) == 1
    assert "out.json: 1 rows with a score ratio below 2 left out" in caplog.text


def test_several_annotators_are_put_together_and_what_does_not_count_is_told(read):
    people = [ranked(1, 2), ranked(2, 1), ranked(2, 1), ranked(1, 2, status="discarded")]
    ((row,), notes) = read({**FIELDS, "rank": people}, layout="ranked")
    assert row["scores"] == [pytest.approx(-5 / 3), pytest.approx(-4 / 3)]
    assert notes == {"answers of annotators that were not submitted, not counted": 1}
    done = [pairwise("right"), pairwise("right"), pairwise("left"), pairwise("left", was_cancelled=True)]
    ((row,), notes) = read({**TASK, "annotations": done}, layout="ranked")
    assert row["scores"] == [pytest.approx(1 / 3), pytest.approx(2 / 3)]
    assert notes == {"cancelled annotations left out": 1}


def test_a_vote_counts_for_the_turns_that_were_judged(read):
    long = [user(ASKED), assistant(GOOD), user("And then?"), assistant("Dry it.")]
    other = [user(ASKED), assistant(BAD), user("And then?"), assistant("Hm.")]
    row = {"conversation_a": long, "conversation_b": other, "winner": "model_a"}
    assert read({**row, "turn": 1})[0][0]["chosen"] == [assistant(GOOD)]
    assert read({**row, "turn": 2})[0][0]["chosen"] == long[1:]
    rows = {"prompt": json.dumps([ASKED, "And then?"]), "response_a": json.dumps([GOOD, "Dry it."])}
    rows |= {"response_b": json.dumps([BAD, "Hm."]), "winner_model_a": 1, "winner_model_b": 0, "winner_tie": 0}
    assert read(rows)[0][0]["chosen"] == long[1:]
    with pytest.raises(InputError, match="`prompt` has 2 turns, but `response_a` 2, `response_b` 1"):
        read({**rows, "response_b": json.dumps([BAD])})


def test_a_tree_gives_a_row_for_every_message_with_ranked_replies(read):
    later = [
        message("c", "b", "And then?", "prompter"),
        message("d", "c", "Dry it.", "assistant", 0),
        message("e", "c", "Hm.", "assistant", 2),
        message("f", "c", "Spam", "assistant", None),
        message("g", "c", "Gone", "assistant", 1, deleted=True),
    ]
    flat = [later[4], *later[:4], *REPLIES, TREE]  # in any order
    expected = ([user(ASKED), assistant(GOOD), user("And then?")], [assistant("Dry it.")], [assistant("Hm.")])
    pairs, notes = read(flat)
    deep = next(pair for pair in pairs if len(pair["prompt"]) == 3)
    assert (deep["prompt"], deep["chosen"], deep["rejected"]) == expected and len(pairs) == 2
    assert notes == {"replies without a rank left out": 1, "deleted messages left out": 1}
    nested = {**REPLIES[1], "replies": [{**later[0], "replies": later[1:]}]}
    pairs, notes = read({"message_tree_id": "t", "prompt": {**TREE, "replies": [REPLIES[0], nested]}})
    assert (pairs[1]["prompt"], pairs[1]["chosen"], pairs[1]["rejected"]) == expected and len(pairs) == 2
    assert notes == {"replies without a rank left out": 1, "deleted messages left out": 1}
    with pytest.raises(InputError, match="line 1: its `parent_id` 'm' is not a message of the file"):
        read(REPLIES)


def test_turns_within_a_prompt_of_helpsteer_are_parted(read):
    prompt = "Hi\n<extra_id_1>Assistant\nHello\n<extra_id_1>User\nBye"
    row = {"prompt": prompt, "response_1": BAD, "response_2": GOOD, "preference_strength": 1}
    assert read(row)[0][0]["prompt"] == [user("Hi"), assistant("Hello"), user("Bye")]


def test_rows_below_a_score_ratio_are_left_out_and_counted(read):
    rows = [SHP, {**SHP, "history": "Other?", "score_A": 10, "score_ratio": 1.2}]
    assert len(read(rows)[0]) == 2
    pairs, notes = read(rows, min_score_ratio=2)
    assert len(pairs) == 1 and notes == {"rows with a score ratio below 2 left out": 1}
    assert pairs[0]["score_chosen"] == 12 and pairs[0]["score_rejected"] == 4
    with pytest.raises(InputError, match="none of the 2 records is left: 2 rows with a score ratio below 9 left out"):
        read(rows, min_score_ratio=9)
    for wrong in (0.5, True, float("nan")):
        with pytest.raises(InputError, match=r"`min_score_ratio` is .*; it must be a number from 1"):
            read(rows, min_score_ratio=wrong)
    with pytest.raises(InputError, match="Source 'pku-saferlhf' does not use `min_score_ratio`; remove it"):
        read(PKU, min_score_ratio=2)


def test_a_score_that_contradicts_its_own_ratings_is_counted_and_can_be_left_out(read):
    wrong = {"response": FAIR, "overall_score": 10.0, "fine-grained_score": 1.25}
    row = {**FEEDBACK, "completions": [*FEEDBACK["completions"], wrong]}
    for source in ("auto", "preference"):
        ((ranked_row,), notes) = read(row, source, layout="ranked")
        assert ranked_row["scores"] == [3.0, 8.0, 10.0] and sum(notes.values()) == 1
        assert "kept (--drop-contradictions leaves them out)" in next(iter(notes))
        ((ranked_row,), notes) = read(row, source, layout="ranked", drop_contradictions=True)
        assert ranked_row["scores"] == [3.0, 8.0]
        assert notes == {"scores that contradict their own fine-grained ratings left out": 1}
    ((ranked_row,), notes) = read(row, layout="ranked", label="fine-grained_score")
    assert ranked_row["scores"] == [1.5, 4.5, 1.25] and notes == {}


def test_a_rating_that_was_not_given_is_left_out_and_counted(read):
    row = {"instruction": ASKED, "generations": [BAD, GOOD, FAIR], "ratings": [1, 5, None]}
    ((ranked_row,), notes) = read(row, layout="ranked")
    assert ranked_row["scores"] == [1.0, 5.0] and notes == {"generations without a rating left out": 1}


SENTINELS = {
    "HelpSteer 2 preferences": ({**EXAMPLES["HelpSteer 2 preferences"][1], "preference_strength": -100}, "`preference_strength` is -100"),
    "HelpSteer 3": ({**EXAMPLES["HelpSteer 3"][1], "overall_preference": -100}, "`overall_preference` is -100"),
    "HelpSteer 2": ({"prompt": ASKED, "response": GOOD, "helpfulness": -1, "correctness": 3}, "`helpfulness` is -1, but must be from 0 to 4"),
    "UltraFeedback": (
        {**FEEDBACK, "completions": [{"response": GOOD, "overall_score": -1, "fine-grained_score": 4}, FEEDBACK["completions"][0]]},
        r"`completions\[0\].overall_score` is -1, but must be from 1 to 10",
    ),
    "distilabel": ({"instruction": ASKED, "generations": [GOOD, BAD], "ratings": [-1, 3]}, r"`ratings\[0\]` is -1, but must be from"),
    "MT-Bench": (vote("model_a", turn=0), "`turn` is 0, but must be at least 1"),
    "PKU": ({**PKU, "better_response_id": -1}, "`better_response_id` must be one of 0, 1, got the number -1"),
    "SHP": ({**SHP, "labels": 2}, "`labels` must be one of 1, 0"),
    "Nectar": (
        {"prompt": ASKED, "answers": [{"answer": GOOD, "rank": -1}, {"answer": BAD, "rank": 1}]},
        r"`answers\[0\].rank` is -1, but must be from 1 to 2",
    ),
    "arena": (vote("nobody"), "`winner` must be one of 'model_a', 'model_b'"),
    "Argilla ratings": ({**FIELDS, "fit-r1": [rating(-1)], "fit-r2": [rating(4)]}, "`fit` is -1, but must be from 0 to 10"),
    "Argilla": ({**FIELDS, "rank": [ranked(0, 1)]}, "`rank.rank` is 0, but 1 is the best"),
    "OASST": ([TREE, REPLIES[0], {**REPLIES[1], "rank": -1}], "`rank` is -1, but 0 is the best"),
    "lists": ({"prompt": ASKED, "responses": [GOOD, BAD], "ranks": [1, 99]}, r"`ranks\[1\]` is 99, but must be from 0 to 2"),
}  # fmt: skip


@pytest.mark.parametrize("form", SENTINELS)
def test_a_score_outside_the_range_of_its_form_is_refused_with_its_row(look, form):
    row, message = SENTINELS[form]
    with pytest.raises(InputError, match=rf"rows.jsonl, line 1: {message}"):
        look(row)
    if form.startswith(("HelpSteer", "UltraFeedback")):  # the source `preference` reads these, too
        with pytest.raises(InputError, match=r"line 1: .* in this form; other numbers mean that there is no judgment"):
            look(row, "preference")


UNUSABLE = {
    "votes against labels": ({**SHP, "labels": 1}, "`labels` prefers A, but `score_A` is 4 and `score_B` 12"),
    "no winner": ({**EXAMPLES["arena, JSON text"][1], "winner_model_b": 0}, "one of the three must be 1"),
    "nothing submitted": ({**FIELDS, "rank": [ranked(1, 2, status="draft")]}, "'rank' has no submitted answer"),
    "two questions": ({**FIELDS, "rank": [ranked(1, 2)], "safe": [ranked(2, 1)]}, "several questions .* 'rank', "
        "'safe'. Pass --label"),
    "buckets": (
        {**LISTED, "annotations": [ranker("b", bucket="good", bad=["a"])]},
        r"the ranker sorts items into buckets \(.*good.*\), whose order is not in the file. Write each row as `prompt`, `responses`",
    ),
    "items without a bucket": ({**LISTED, "annotations": [ranker("b", bucket="good", _=["a"])]}, "sorts items into buckets"),
    "an item that is not there": ({**LISTED, "annotations": [ranker("b", "c")]}, r"no list in `data` has all .*\(b, c\)"),
    "one item": ({**LISTED, "annotations": [ranker("b")]}, "must sort two items or more, each once"),
    "nothing chosen": ({**TASK, "annotations": [{"result": []}]}, "no annotation compares two texts"),
    "ratings against the label": (
        {**EXAMPLES["Capybara"][1], "rating_rejected": 6},
        "`score_chosen` .5. is below `score_rejected` .6.",
    ),
    "scores against the label": (
        {**CONVERSATIONS, "chosen_score": 1.0, "rejected_score": 2},
        "`score_chosen` .1. is below `score_rejected` .2.; the labels contradict the scores",
    ),
    "half stored as text": (
        {"prompt": ASKED, "chosen": json.dumps([user(ASKED), assistant(GOOD)]), "rejected": BAD},
        "`chosen` is a conversation stored as JSON text, but `rejected` is not",
    ),
    "broken text": (
        {"prompt": ASKED, "chosen": json.dumps([user(ASKED), assistant(GOOD)]), "rejected": '[{"role": "user", "con'},
        "`chosen` is a conversation stored as JSON text, but `rejected` is not",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", UNUSABLE)
def test_a_row_without_a_clear_label_is_refused(look, fault):
    row, message = UNUSABLE[fault]
    with pytest.raises(InputError, match=message):
        look(row)


def test_an_answer_that_is_json_stays_text(read):
    row = {"prompt": "Give JSON.", "chosen": '[{"name": "a"}]', "rejected": '{"role": "user"}'}
    assert read(row)[0][0]["chosen"] == [assistant('[{"name": "a"}]')]


def test_a_label_says_which_question_decides(read):
    row = {**FIELDS, "rank": [ranked(1, 2)], "safe": [ranked(2, 1)]}
    assert read(row, label="safe")[0][0]["chosen"] == [assistant(GOOD)]
    assert read(row, label="rank")[0][0]["chosen"] == [assistant(BAD)]
    with pytest.raises(InputError, match="`label` is 'best', but this row has 'rank', 'safe'"):
        read(row, label="best")


def test_what_fits_several_forms_is_refused_with_the_names_of_all(write):
    path = write("rows.jsonl", [{**PKU, **SHP}])
    with pytest.raises(
        InputError, match=r"SHP \(source shp: .*PKU-SafeRLHF \(source pku-saferlhf: .*--ignore-columns"
    ):
        recognize(RecordFile(path))


def test_pairs_beside_scored_completions_are_refused_until_one_is_left_out(look):
    row = {"prompt": ASKED, "chosen": GOOD, "rejected": BAD, "completions": [FAIR, BAD], "scores": [1, 0]}
    with pytest.raises(
        InputError, match=r"several forms: TRL .*; scored .*--ignore-columns completions scores reads it as"
    ):
        look(row)
    assert look(row, ignore_columns=("completions", "scores")).completions[0] == [assistant(GOOD)]
    assert look(row, ignore_columns=("chosen", "rejected")).completions[0] == [assistant(FAIR)]


def test_a_pipeline_of_distilabel_that_kept_all_generations_is_read_by_its_pair(look):
    sides = {side: [user(ASKED), assistant(text)] for side, text in (("chosen", GOOD), ("rejected", BAD))}
    row = {"instruction": ASKED, "generations": [BAD, FAIR, GOOD], "ratings": [1, 3, 5], **sides, "prompt": ASKED}
    row |= {"chosen_rating": 5, "rejected_rating": 1}
    assert (look(row).completions, look(row).scores) == ([[assistant(GOOD)], [assistant(BAD)]], [5.0, 1.0])
    assert look(row, ignore_columns=("chosen", "rejected")).scores == [1.0, 3.0, 5.0]


def test_inputs_of_two_forms_are_not_mixed(write):
    paths = [f"train={write('a.jsonl', [PKU])}", f"test={write('b.jsonl', [SHP])}"]
    with pytest.raises(
        InputError, match=r"b.jsonl has the form SHP, but .*a.jsonl has PKU-SafeRLHF. Build each separately"
    ):
        build("auto", paths, BuildOptions())


def test_a_preference_that_nothing_knows_is_refused_by_its_label(write):
    path = write("rows.jsonl", [{"q": ASKED, "left": GOOD, "right": BAD, "winner": "left"}])
    with pytest.raises(InputError, match=r"no known form has the columns 'q', 'left', 'right', 'winner'\. .*'winner'"):
        recognize(RecordFile(path))
    with pytest.raises(InputError, match="with --columns, use jsonl instead of auto"):
        build("auto", [path], BuildOptions(columns={"prompt": "q"}))


def test_a_column_that_a_form_does_not_have_stops_it_too(look):
    row = {"instruction": ASKED, "input": "x", "chosen": GOOD, "rejected": BAD, "context": "In a kitchen."}
    with pytest.raises(
        InputError, match=r"line 1: 'context' seems to be part of the prompt, and is not read\. Write the"
    ):
        look(row)
    with pytest.raises(InputError, match="'winner' seems to say which response is better"):
        look({**PKU, "winner": "a"})


def test_a_source_that_does_not_know_the_form_points_to_the_one_that_does(read):
    for row, message in (
        (PKU, "It has the form PKU-SafeRLHF: rm-toolkit build-data auto reads it"),
        ({"instruction": ASKED, "input": "x", "chosen": GOOD, "rejected": BAD}, "It has the form Alpaca: "),
    ):
        with pytest.raises(InputError, match=message):
            read(row, "preference")


def test_a_dry_run_says_how_the_input_is_read_and_writes_nothing(write, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write("rows.jsonl", [{**PKU, "is_response_0_safe": True}])
    before = sorted(tmp_path.rglob("*"))
    assert main(["build-data", "auto", "--input", path, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "PKU-SafeRLHF (source 'pku-saferlhf', seen by prompt, response_0, response_1, better_response_id)" in shown
    assert "read as: prompt; better_response_id says which response is better (--label safer" in shown
    assert "not read: is_response_0_safe" in shown
    assert shown.index(f"score 1: {GOOD}") < shown.index(f"score 0: {BAD}")
    assert main(["build-data", "auto", "--input", path]) == 0
    assert capsys.readouterr().out == shown + "nothing was written: pass --output DIR to build it.\n"
    assert sorted(tmp_path.rglob("*")) == before
    assert main(["build-data", "shp", "--input", path, "--dry-run"]) == 2
    assert "there is no key 'history'" in capsys.readouterr().err


def test_auto_builds_and_tells_what_it_counted(write, tmp_path, capsys):
    wrong = {"response": FAIR, "overall_score": 10.0, "fine-grained_score": 1.0}
    path = write("rows.jsonl", [{**FEEDBACK, "completions": [*FEEDBACK["completions"], wrong]}])
    folder = tmp_path / "out"
    command = [
        "build-data",
        "auto",
        "--input",
        path,
        "--output",
        str(folder),
        "--test-size",
        "0",
        "--drop-contradictions",
    ]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "UltraFeedback (source 'ultrafeedback'" in shown
    assert "note: train: 1 scores that contradict their own fine-grained ratings left out" in shown
    info = json.loads((folder / "rm_toolkit_data.json").read_text())
    assert info["source"] == "ultrafeedback" and info["options"]["drop_contradictions"] is True
    assert info["notes"] == {"train": {"scores that contradict their own fine-grained ratings left out": 1}}
