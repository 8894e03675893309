"""What a message says beside its role and content: nothing of it is dropped without a word."""

from __future__ import annotations

import pytest
from datasets import Dataset

from rm_toolkit.data.build import BuildOptions, build
from rm_toolkit.data.records import Place
from rm_toolkit.data.tokenization import tokenize_preferences, tokenize_texts
from rm_toolkit.errors import InputError
from rm_toolkit.evaluation.preferences import read_preferences
from rm_toolkit.score_rows import ScoreOptions, read_row
from rm_toolkit.scoring import RewardScorer


ASKED = [{"role": "user", "content": "river?"}]
CALL = {"role": "assistant", "content": "stone", "tool_calls": [{"function": {"name": "look", "arguments": {"q": 1}}}]}
OTHER = {
    "role": "assistant",
    "content": "stone",
    "tool_calls": [{"function": {"name": "look", "arguments": {"q": 2}}}],
}
PAIR = {"prompt": ASKED, "chosen": [CALL], "rejected": [OTHER]}
PLAIN = {"prompt": ASKED, "chosen": [{"role": "assistant", "content": "a"}], "rejected": [ASKED[0]]}


@pytest.fixture(scope="module")
def scorer(reward_model):
    return RewardScorer(reward_model("qwen3", data_format="chat"), device="cpu")


@pytest.mark.parametrize("format", ["text", "chat"])
def test_build_data_names_the_field_and_the_line(write, format):
    path = write("rows.jsonl", [PLAIN, PAIR])
    with pytest.raises(InputError, match=r"rows.jsonl, line 2: `chosen`, message 1: .*tool_calls"):
        build("jsonl", [path], BuildOptions(format=format, test_size=0))


@pytest.mark.parametrize("column", ["tools", "chat_template_kwargs"])
def test_build_data_names_the_column(write, column):
    path = write("rows.jsonl", [{**PLAIN, column: {"a": 1}}])
    with pytest.raises(InputError, match=rf"rows.jsonl, line 1: .*{column}"):
        build("jsonl", [path], BuildOptions(format="chat", test_size=0))


def test_training_names_the_field(scorer):
    options = {"max_length": 48, "data_format": "chat", "show_progress": False}
    with pytest.raises(InputError, match="tool_calls"):
        tokenize_preferences(Dataset.from_list([PAIR]), scorer.tokenizer, **options)
    with pytest.raises(InputError, match="tools"):
        tokenize_preferences(Dataset.from_list([{**PLAIN, "tools": "[1]"}]), scorer.tokenizer, **options)
    with pytest.raises(InputError, match="tool_calls"):
        tokenize_texts([(ASKED, [CALL])], scorer.tokenizer, max_length=48, data_format="chat")


def test_scoring_and_evaluation_name_the_field(scorer):
    with pytest.raises(InputError, match="tool_calls"):
        scorer.score([ASKED], [[CALL]])
    with pytest.raises(InputError, match=r"f.jsonl, line 3: `completion`, message 1: .*tool_calls"):
        read_row(Place("f.jsonl", "line", 3), {"prompt": ASKED, "completion": [CALL]}, scorer, ScoreOptions())
    with pytest.raises(InputError, match=r"f.jsonl, line 3: .*tools"):
        read_row(
            Place("f.jsonl", "line", 3), {"prompt": "a", "completion": "b", "tools": "[]"}, scorer, ScoreOptions()
        )
    with pytest.raises(InputError, match="chat_template_kwargs"):
        read_preferences(Dataset.from_list([{**PLAIN, "chat_template_kwargs": {"think": True}}]), "test")
