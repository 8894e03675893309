"""The pairs behind the numbers: `pairs.parquet`, and the data of the page."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pyarrow.parquet
import pytest
from conftest import pair_rows
from datasets import Dataset
from made_evaluation import made_evaluation

from rm_toolkit.data.templates import prompt_digest
from rm_toolkit.evaluation import figures, pair_blocks
from rm_toolkit.evaluation import pair_rows as rows_module
from rm_toolkit.evaluation.pair_blocks import excerpt
from rm_toolkit.evaluation.pair_rows import judged_sets, write_pairs
from rm_toolkit.evaluation.preferences import read_preferences
from rm_toolkit.output.page.columns import coded, packed
from rm_toolkit.output.page.escaping import script_json, utf8_json


HOSTILE = (
    "</script><script>alert(1)</script><!-- <b onclick='x'>&amp; \u2028\u2029\ufeff\u202eabc\u2066 \x00\x1b é 漢 😀"
)
RANKED = [
    {
        "prompt": "p",
        "completions": ["best", "good", "good too", "bad"],
        "scores": [2.0, 1.0, 1.0, 0.0],
        "prompt_id": "7",
    }
]


def written(found, path):
    write_pairs(judged_sets(found.tables, found.rewards, found.cut), path)
    return pyarrow.parquet.read_table(path).to_pylist()


def test_a_row_for_each_pair_and_model_holds_texts_rewards_tags_and_lengths(tmp_path):
    rows = [
        {
            "prompt": "What?",
            "chosen": "This.",
            "rejected": HOSTILE,
            "domain": "law",
            "rejected_domain": "art",
            "margin": 2.0,
        },
        {"prompt": "Why?", "chosen": "So", "rejected": "No", "domain": "law", "rejected_domain": None, "margin": None},
    ]
    found = made_evaluation(
        {"mine": rows}, {"a": lambda name, k: k, "b": lambda name, k: -k / 4}, cut=lambda text: text == HOSTILE
    )
    lines = written(found, tmp_path / "pairs.parquet")
    assert [(line["set"], line["pair"], line["model"]) for line in lines] == [
        ("mine", 0, "a"), ("mine", 0, "b"), ("mine", 1, "a"), ("mine", 1, "b"),
    ]  # fmt: skip
    first = lines[1]
    assert (first["prompt"], first["chosen"], first["rejected"], first["format"]) == (
        "What?",
        "This.",
        HOSTILE,
        "text",
    )
    assert (first["reward_chosen"], first["reward_rejected"], first["margin"]) == (0.0, -0.25, 0.25)
    assert first["p"] == pytest.approx(1 / (1 + math.exp(-0.25)))
    assert (first["domain"], first["rejected_domain"], first["source"]) == ("law", "art", None)
    assert (first["length_chosen"], first["length_rejected"]) == (5, len(HOSTILE))
    assert (first["truncated_chosen"], first["truncated_rejected"]) == (False, True)
    assert [line["wanted_margin"] for line in lines] == [2.0, 2.0, 0.0, 0.0]
    assert first["prompt_id"] == prompt_digest("What?", ["This.", HOSTILE])


def test_ranked_rows_give_a_row_for_each_of_their_pairs_under_the_id_that_they_have(tmp_path):
    found = made_evaluation({"ranked": RANKED}, {"a": lambda name, k: -k})
    lines = written(found, tmp_path / "pairs.parquet")
    pairs = {(line["chosen"], line["rejected"]) for line in lines}
    assert len(lines) == 5 and ("good", "good too") not in pairs and ("good too", "bad") in pairs
    assert {line["prompt_id"] for line in lines} == {"7"} and all(line["margin"] > 0 for line in lines)


def test_messages_and_tools_are_json(tmp_path):
    call = [{"type": "function", "function": {"name": "look", "arguments": {"place": "Bern"}}}]
    row = {
        "prompt": [{"role": "user", "content": "Rain?"}],
        "chosen": [{"role": "assistant", "content": "", "tool_calls": call}],
        "rejected": [{"role": "assistant", "content": "No.", "tool_calls": None}],
        "tools": [{"type": "function", "function": {"name": "look"}}],
    }
    (line,) = written(made_evaluation({"chat": [row]}, {"a": lambda name, k: k}), tmp_path / "pairs.parquet")
    assert line["format"] == "chat" and json.loads(line["chosen"])[0]["tool_calls"] == call
    assert json.loads(line["rejected"]) == [{"role": "assistant", "content": "No."}]
    assert json.loads(line["tools"]) == row["tools"] and line["chat_template_kwargs"] is None


def test_models_that_number_the_texts_otherwise_are_shown_with_their_own_rewards(tmp_path):
    """As if a chat model and a text model read one set: the same pairs, but differently numbered texts."""
    found = made_evaluation({"mine": pair_rows(3)}, {"a": lambda name, k: k, "b": lambda name, k: 10 * k})
    table = found.pairs["mine"]
    found.tables["b"] = {
        "mine": replace(
            table,
            prompts=table.prompts[::-1],
            completions=table.completions[::-1],
            better=5 - table.better,
            worse=5 - table.worse,
            distinct=None,
        )
    }
    found.rewards["b"]["mine"] = found.rewards["b"]["mine"][::-1]
    for line in written(found, tmp_path / "pairs.parquet"):
        row, text = pair_rows(3)[line["pair"]], 2 * line["pair"]
        factor = 1 if line["model"] == "a" else 10
        assert (line["chosen"], line["rejected"]) == (row["chosen"], row["rejected"])
        assert (line["reward_chosen"], line["reward_rejected"]) == (factor * text, factor * (text + 1))
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "draw_margins", lambda pairs, own, *_: seen.append(own["mine"][pairs["mine"].better]))
        figures.draw_figures(found.metrics, found.tables, found.rewards, {}, tmp_path)
    assert seen[1].tolist() == (10 * seen[0]).tolist()


def test_groups_of_rows_are_small_and_lose_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(rows_module, "GROUP_CHARACTERS", 400)
    found = made_evaluation({"mine": pair_rows(30), "more": pair_rows(5, seed=1)}, {"a": lambda name, k: k})
    lines = written(found, tmp_path / "pairs.parquet")
    assert pyarrow.parquet.ParquetFile(tmp_path / "pairs.parquet").num_row_groups > 10
    assert [line["pair"] for line in lines] == [*range(30), *range(5)]
    assert [line["chosen"] for line in lines[:30]] == [row["chosen"] for row in pair_rows(30)]


class Kept:
    """Blocks of a page in memory."""

    def __init__(self):
        self.blocks = {}

    def add(self, name, value):
        self.add_json(name, script_json(value))

    def add_json(self, name, text):
        self.blocks[name] = json.loads(text)


def test_blocks_of_texts_hold_every_text_once_and_a_prompt_once_in_a_row(monkeypatch):
    monkeypatch.setattr(pair_blocks, "CHARACTERS_A_BLOCK", 200)
    monkeypatch.setattr(pair_blocks, "PROMPTS_A_BLOCK", 4)
    found = made_evaluation({"mine": pair_rows(9), "ranked": RANKED}, {"a": lambda name, k: k})
    kept = Kept()
    pair_blocks.add_pairs(judged_sets(found.tables, found.rewards, found.cut), kept)
    pairs = kept.blocks["pairs"]
    texts = [(n, own) for n in range(len(pairs["textStarts"])) for own in kept.blocks[f"texts-{n}"]["texts"]]
    expected = [
        (prompt, completion)
        for table in found.pairs.values()
        for prompt, completion in zip(table.prompts, table.completions)
    ]
    assert [(kept.blocks[f"texts-{n}"]["prompts"][p][0], text) for n, (p, text) in texts] == expected
    assert pairs["textStarts"][1:] == [k for k in range(1, len(texts)) if texts[k][0] != texts[k - 1][0]]
    last = kept.blocks[f"texts-{len(pairs['textStarts']) - 1}"]
    assert len(last["prompts"]) < len(last["texts"])
    assert [len(kept.blocks[f"prompts-{n}"]["ids"]) for n in range(3)] == [4, 4, 2]
    assert kept.blocks["prompts-2"]["ids"][-1] == "7" and kept.blocks["prompts-2"]["excerpts"][-1] == "p"


def test_json_of_a_script_holds_nothing_that_ends_it_and_reads_as_it_was():
    value = {HOSTILE: [HOSTILE, float("nan"), "\ud800 half"]}
    text = script_json(value)
    assert not re.search("[<>&\u2028\u2029\ufeff\ud800-\udfff]", text)
    text.encode("utf-8")
    assert json.loads(text) == {HOSTILE: [HOSTILE, "NaN", "\ud800 half"]}
    assert json.loads(utf8_json("\ud800 <é>").encode("utf-8").decode()) == "\ud800 <é>"


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([0, 255], "u1"),
        ([0, 256], "u2"),
        ([70000], "u4"),
        ([True], "u1"),
        ([0.5, np.nan], "f4"),
        ([0.1], "f8"),
        ([], "f4"),
    ],
)
def test_columns_take_the_smallest_type_that_holds_them(values, kind):
    assert packed(np.array(values))["type"] == kind
    assert coded(["b", None, "a", ""]) == {"values": ["a", "b"], "codes": packed(np.array([2, 0, 1, 0]))}


def test_an_excerpt_is_what_the_reader_asked():
    assert excerpt("## Human:\nWhat is\n it?\n\n## Assistant:\n") == "What is it?"
    assert excerpt("\n\nHuman: one\n\nAssistant: two\n\nHuman: three\n\nAssistant:").startswith("one")
    chat = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "a"},
    ]
    assert excerpt(chat) == "u" and excerpt([]) == "" and len(excerpt("x" * 999)) == pair_blocks.EXCERPT


def test_tags_that_are_numbers_are_read_as_text():
    rows = [{"prompt": "p", "chosen": "a", "rejected": "b", "source": 7, "domain": 1}]
    pairs = read_preferences(Dataset.from_list(rows), "numbers")
    assert list(pairs.tags["source"]) == ["7"] and list(pairs.tags["domain"]) == ["1"]
