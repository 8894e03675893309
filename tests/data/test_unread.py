"""A column that says which response is better, or that belongs to the prompt, is read or stops the build."""

from __future__ import annotations

import pytest

from rm_toolkit.cli import main
from rm_toolkit.data.build import BuildOptions, build
from rm_toolkit.data.mixture import load_datasets, read_uncleaned
from rm_toolkit.data.records import Place
from rm_toolkit.data.schema import RawRow
from rm_toolkit.data.sources.column_names import is_rank
from rm_toolkit.data.sources.unread import ReadRecord, UnreadColumn, check_all_read
from rm_toolkit.data.specs import DatasetSpec
from rm_toolkit.errors import InputError


PAIR = {"prompt": "What is it?", "chosen": "A stone.", "rejected": "No idea."}
SIDES = {"prompt": "What is it?", "response_a": "No idea.", "response_b": "A stone."}
MAPPED = {"chosen": "response_a", "rejected": "response_b"}


@pytest.fixture
def train(write):
    """`train(rows, source="jsonl", **options)`: the rows of a build without a test split."""

    def go(rows, source="jsonl", **options):
        path = write("rows.jsonl", rows)
        return build(source, [path], BuildOptions(test_size=0, **options)).datasets["train"].to_list()

    return go


LABELS = {
    "better_response_id": 1,
    "winner": "model_b",
    "labels": 0,
    "label": "B",
    "winner_model_a": 0,
    "winner_tie": 0,
    "is_response_0_safer": False,
    "preference": [{"value": [{"rank": 1, "value": "response_b"}]}],
    "preference_strength": -2,
    "overall_preference": 3,
    "Preferred": "b",
    "bestResponse": "b",
    "best": 1,
    "ranking": [2, 1],
    "rank": 2,
    "response-rank": 2,
    "selected": "right",
    "choice": 1,
    "comparison": "right",
    "human_label": 1,
    "annotations": [{"result": [{"value": {"selected": "right"}}]}],
    "chosen_index": 1,
    "is_chosen": False,
    "score_A": 5,
    "rating1": 2.5,
    "winner_model": "gpt",
}


@pytest.mark.parametrize("name", LABELS)
def test_a_column_that_says_which_is_better_stops_a_mapping_that_leaves_it_unread(train, name):
    with pytest.raises(
        UnreadColumn, match=rf"rows.jsonl, line 1: '{name}' seems to say which .*--ignore-columns {name} "
    ):
        train([{**SIDES, name: LABELS[name]}], columns=MAPPED)
    assert train([{**SIDES, name: LABELS[name]}], columns=MAPPED, ignore_columns=(name,))[0]["chosen"] == "No idea."


@pytest.mark.parametrize("name", ["better_response_id", "winner", "label", "rank", "preference_strength"])
def test_so_it_does_beside_columns_that_are_named_chosen_and_rejected(train, name):
    with pytest.raises(UnreadColumn, match=f"'{name}' seems to say which response is better"):
        train([{**PAIR, name: LABELS[name]}])


METADATA = {
    "chosen_model": "gpt",
    "preference_model": "gpt",
    "labelling_model": "gpt",
    "winner_comment": "The second one is correct.",
    "preference_statement": "@Response 2 is better",
    "ranking_source": "crowd",
    "preference_id": "p7",
    "chosen_id": 12,
    "chosen-rating": 4.0,
    "score_ratio": 6.0,
    "upvote_ratio": 0.9,
    "safety_label": "harmless",
    "label_language": "en",
    "is_response_0_safe": True,
    "id": 3,
    "source": "crowd",
    "model_a": "gpt",
    "turn": 1,
    "language": "en",
    "labels_text": "word " * 40,
    "best_of": 16,
    "metadata": {"winner": "b"},
    "messages": [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "A stone."}],
    "subset": "chat",
    "position": 4,
    "system_fingerprint": "fp1",
    "input_tokens": 12,
    "history_id": "h1",
    "context_length": 2048,
    "instruction_id": 3,
}


def test_metadata_does_not_stop_a_build(train):
    assert train([{**PAIR, **METADATA}])[0]["chosen"] == "A stone."


@pytest.mark.parametrize("empty", [None, "", "  ", [], {}, [""]])
def test_an_empty_column_does_not_stop_a_build(train, empty):
    rows = [{**PAIR, "input": empty, "system": empty, "winner": empty, "preference": empty}]
    assert train(rows)[0]["prompt"] == "What is it?"


PARTS = {
    "input": "A grey thing.",
    "Input": "A grey thing.",
    "system": "Answer briefly.",
    "system_prompt": "Answer briefly.",
    "history": [["Hello", "Hello to you"]],
    "chatHistory": [{"role": "user", "content": "Hello"}],
    "context": "It lies on the road.",
    "instruction": "Name the thing.",
    "question": "What is this?",
    "images": [{"path": "stone.png"}],
}


@pytest.mark.parametrize("name", PARTS)
def test_a_part_of_the_prompt_that_is_not_read_stops_the_build(train, name):
    rows = [PAIR, {**PAIR, "prompt": "And that?", name: PARTS[name]}]
    with pytest.raises(
        UnreadColumn, match=f"rows.jsonl, line 2: '{name}' seems to be part of the prompt, and is not read"
    ):
        train(rows)
    assert len(train(rows, ignore_columns=(name,))) == 2


def test_a_part_that_the_prompt_or_both_dialogues_say_again_does_not_stop_the_build(train):
    whole = "Answer briefly.\n\nWhat is it?\nA grey thing."
    assert len(train([{**PAIR, "prompt": "Name words with car, not carpet.", "input": "car"}])) == 1
    parts = {"system": "Answer briefly.", "question": "What is it?", "input": "A grey thing."}
    assert train([{**PAIR, **parts, "prompt": whole}])[0]["prompt"] == whole
    turns = [[{"role": "user", "content": whole}, {"role": "assistant", "content": text}] for text in ("Yes.", "No.")]
    conversation = {"messages": turns[0]}
    assert len(train([{"chosen": turns[0], "rejected": turns[1], **parts, **conversation}], format="chat")) == 1
    with pytest.raises(UnreadColumn, match="'input' seems to be part of the prompt"):
        train(
            [
                {**PAIR, "prompt": "Name words with car.", "input": "car"},
                {**PAIR, "prompt": "A scarf?", "input": "car"},
            ]
        )


def test_a_question_beside_no_prompt_is_named_with_the_flag_that_reads_it(train):
    rows = [{"question": "What is it?", "chosen": "A stone.", "rejected": "No idea."}]
    with pytest.raises(UnreadColumn, match=r"'question' seems to be part.*--columns prompt=question"):
        train(rows)
    assert train(rows, columns={"prompt": "question"})[0]["prompt"] == "What is it?"


def test_no_row_is_left_out_for_an_unread_column(train):
    with pytest.raises(UnreadColumn, match="line 2: 'input'"):
        train([PAIR, {**PAIR, "input": "More."}], skip_invalid=True)
    single = {"prompt": "Q", "response": "A", "score": 1.0}
    with pytest.raises(UnreadColumn, match="line 2: 'system'"):
        train([single, {**single, "response": "B", "score": 0.0, "system": "Be kind."}], skip_invalid=True)


def test_parts_of_an_object_that_dots_reach_into_are_looked_at(train):
    data = {"prompt": "Q", "answer1": "A", "answer2": "B", "system": "Be kind."}
    columns = {"prompt": "data.prompt", "chosen": "data.answer1", "rejected": "data.answer2"}
    with pytest.raises(UnreadColumn, match=r"'data.system' seems.*--ignore-columns data.system"):
        train([{"data": data}], columns=columns)
    assert len(train([{"data": data}], columns=columns, ignore_columns=("data.system",))) == 1


@pytest.mark.parametrize(
    ("source", "record", "name"),
    [
        ("hh", PAIR, "prompt"),
        ("text-score", {"text": ["Q A", "Q B"], "score": [1.0, 0.0], "winner": 1}, "winner"),
        ("gpt4llm", {"user_input": "Q", "completion_a": "A", "completion_b": "B", "system": "Be kind."}, "system"),
    ],
)
def test_fixed_forms_pass_over_no_such_column_either(train, source, record, name):
    with pytest.raises(UnreadColumn, match=f"'{name}'"):
        train([record], source)
    assert len(train([record], source, ignore_columns=(name,))) == 1


def test_the_votes_that_a_preference_sums_up_are_no_second_label(train):
    row = {"context": "Q", "response1": "A", "response2": "B", "overall_preference": 2}
    assert train([{**row, "individual_preference": [{"score": 2}]}])[0]["chosen"] == "B"


# ---- ranks ----


def ranks_of(rows):
    return {row["prompt"]: (row["chosen"], row["rejected"]) for row in rows}


@pytest.mark.parametrize("columns", [{}, {"rank": "rank"}])
def test_of_single_responses_the_lowest_rank_is_best(train, columns):
    rows = [{"prompt": "Q", "response": text, "rank": rank} for text, rank in (("B", 2), ("A", 1), ("C", 3))]
    built = train(rows, columns=columns)
    assert {(row["chosen"], row["rejected"]) for row in built} == {("A", "B"), ("A", "C"), ("B", "C")}
    assert {row["score_chosen"] for row in built} == {-1.0, -2.0}


def test_of_lists_and_of_objects_the_lowest_rank_is_best(train):
    assert ranks_of(train([{"prompt": "Q", "completions": ["A", "B"], "ranks": [1, 0]}])) == {"Q": ("B", "A")}
    answers = [{"answer": "A", "rank": 2.0}, {"answer": "B", "rank": 1.0}]
    assert ranks_of(train([{"prompt": "Q", "answers": answers}], columns={"completions": "answers"})) == {
        "Q": ("B", "A")
    }
    with pytest.raises(UnreadColumn, match=r"'rank' of `completions\[0\]`"):
        train([{"prompt": "Q", "completions": [{**answer, "score": 1.0} for answer in answers]}])


@pytest.mark.parametrize("ours", ["score", "scores", "score_chosen", "score_rejected"])
@pytest.mark.parametrize("theirs", ["rank", "ranks", "Ranking", "meta.rank", "rank_a", "position"])
def test_a_rank_is_never_read_as_a_score(train, ours, theirs):
    with pytest.raises(InputError, match=rf"{ours}={theirs} reads a rank as a score, but rank 1 is best"):
        train([PAIR], columns={ours: theirs})


def test_scores_that_are_named_after_ranks_are_scores():
    assert [is_rank(name) for name in ("rank_score", "ranking_reward", "frank", "rank")] == [False, False, False, True]


def test_a_score_and_a_rank_are_not_both_read(train):
    rows = [
        {"prompt": "Q", "response": text, "score": score, "rank": 1 + score} for text, score in (("A", 0), ("B", 1))
    ]
    with pytest.raises(UnreadColumn, match="'rank' seems to say"):
        train(rows)
    with pytest.raises(InputError, match="names both score=score and rank=rank"):
        train(rows, columns={"score": "score", "rank": "rank"})
    assert ranks_of(train(rows, ignore_columns=("rank",))) == {"Q": ("B", "A")}


# ---- entry points ----


def test_advice_never_maps_names_past_a_label(train):
    with pytest.raises(
        InputError, match=r"no preference found.*'better_response_id' seems to say which response"
    ) as caught:
        train([{"prompt": "Q", "first": "A", "second": "B", "better_response_id": 1}])
    assert "chosen=good" not in str(caught.value)
    with pytest.raises(InputError, match="chosen=good"):
        train([{"prompt": "Q", "first": "A", "second": "B"}])


def test_what_is_ignored_is_not_read_either(train):
    rows = [{**PAIR, "score_chosen": 1.0, "score_rejected": 2.0, "domain": "law"}]
    built = train(rows, ignore_columns=("score_chosen", "score_rejected", "domain"))
    assert (built[0]["score_chosen"], built[0]["domain"]) == (1.0, "general")
    with pytest.raises(InputError, match="`ignore_columns` leaves out 'question', which `columns` reads as prompt"):
        train(rows, columns={"prompt": "question"}, ignore_columns=("question",))


def test_on_the_command_line(write, tmp_path, capsys):
    path = write("rows.jsonl", [{**PAIR, "input": "More."}, {**PAIR, "prompt": "And?", "input": "Still more."}])
    command = ["build-data", "jsonl", "--input", path, "--output", str(tmp_path / "out"), "--test-size", "0"]
    assert main(command) == 2
    assert "(in a recipe, ignore_columns: [input])" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*command, "--ignore-columns", "input"]) == 0
    export = ["build-data", "jsonl", "--input", path, "--export", "text-score", str(tmp_path / "x.json")]
    assert main(export) == 2 and not (tmp_path / "x.json").exists()
    with pytest.raises(UnreadColumn, match="'input' seems to be part of the prompt"):
        read_uncleaned(DatasetSpec(path, source="jsonl"), "train")  # what `inspect` reads


@pytest.mark.parametrize("streaming", [False, True])
def test_in_the_specs_of_a_recipe(write, streaming):
    spec = {"path": write("rows.jsonl", [{**PAIR, "winner": "b"}]), "source": "jsonl", "streaming": streaming}
    with pytest.raises(Exception, match="'winner' seems to say") as caught:
        list(load_datasets({"mine": spec}, "train")["mine"])
    assert isinstance(caught.value, InputError)
    rows = list(load_datasets({"mine": {**spec, "ignore_columns": ["winner"]}}, "train")["mine"])
    assert rows[0]["completions"] == ["A stone.", "No idea."]
    with pytest.raises(InputError, match=r"`ignore_columns` is .*; it must be a list, each item a string"):
        load_datasets({"mine": {**spec, "ignore_columns": "winner"}}, "train")


def test_a_record_remembers_what_was_read():
    record = ReadRecord({"a": 1, "winner": 2})
    row = RawRow("Q", ["A", "B"], [1.0, 0.0])
    with pytest.raises(UnreadColumn):
        check_all_read(record, row, Place("f", "line", 1), mappable=True)
    assert record["winner"] == 2
    check_all_read(record, row, Place("f", "line", 1), mappable=True)
