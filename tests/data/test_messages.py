"""Fields of a message besides role and content are read as the chat template renders them, or named; never dropped."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
import torch
from datasets import Dataset, IterableDataset, load_dataset, load_from_disk
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from trl.trainer.utils import remove_none_values

from rm_toolkit.batches.preference_rows import text_key
from rm_toolkit.batches.scored_texts import tokenize_texts
from rm_toolkit.batches.tokenization import tokenize_preferences
from rm_toolkit.data.build import BuildOptions, build, save
from rm_toolkit.data.messages import null_stripper
from rm_toolkit.data.mixture import load_datasets
from rm_toolkit.data.pairs import pairs_to_ranked, ranked_to_pairs, with_same_messages
from rm_toolkit.data.records import Place, RecordFile, read_records
from rm_toolkit.data.templates import normalize, prompt_digest
from rm_toolkit.errors import InputError
from rm_toolkit.evaluation.evaluator import evaluate
from rm_toolkit.evaluation.preferences import read_preferences
from rm_toolkit.hub.datasets import preview_dataset
from rm_toolkit.inspection.inspector import inspect_dataset
from rm_toolkit.scoring.files import score_file
from rm_toolkit.scoring.rows import ScoreOptions, read_row
from rm_toolkit.scoring.scorer import RewardScorer


# Renders every field that the tests use, like templates of models with tools and reasoning.
TOOL_TEMPLATE = (
    "{% if tools %}<tools>{{ tools | tojson }}</tools>{% endif %}{% if mood %}<mood>{{ mood }}</mood>{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}{% if m.name %} {{ m.name }}{% endif %}"
    "{% if m.tool_call_id %} {{ m.tool_call_id }}{% endif %}\n"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}"
    "{% if m.note %}<note>{{ m.note }}</note>{% endif %}"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content or [] %}{{ p.text }}{% endfor %}{% endif %}"
    "{% for c in m.tool_calls or [] %}<call>{{ c | tojson }}</call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ASKED = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "river?"}]
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {"q": {}}}}}]


def call(**arguments):
    return [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": arguments}}]


def answer(content="stone", **fields):
    return [{"role": "assistant", "content": content, **fields}]


# Field -> two values that give different texts if the template renders the field.
FIELDS = {
    "tool_calls": (call(q=1), call(q=2, deep={"a": [1]})),
    "reasoning_content": ("because", "perhaps"),
    "thinking": ("because", "perhaps"),  # transformers passes it to the template under its other names, too
    "name": ("anna", "bert"),
    "tool_call_id": ("c1", "c2"),
}


def pair_of(field, content="stone"):
    first, second = FIELDS[field]
    return {
        "prompt": ASKED,
        "chosen": answer(content, **{field: first}),
        "rejected": answer(content, **{field: second}),
    }


@pytest.fixture(scope="module")
def folder(reward_model, tmp_path_factory):
    """A chat model whose template renders tools, calls and thoughts."""
    from shutil import copytree

    made = copytree(
        reward_model("qwen3", data_format="chat", max_length=512), tmp_path_factory.mktemp("tools") / "model"
    )
    tokenizer = AutoTokenizer.from_pretrained(made)
    tokenizer.chat_template = TOOL_TEMPLATE
    tokenizer.save_pretrained(made)
    return str(made)


@pytest.fixture(scope="module")
def scorer(folder):
    return RewardScorer(folder, device="cpu")


@pytest.fixture(scope="module")
def plain_scorer(reward_model):
    """A chat model whose template renders only roles and contents."""
    return RewardScorer(reward_model("qwen3", data_format="chat"), device="cpu")


@pytest.fixture(scope="module")
def stock(folder):
    """Rewards of whole conversations from the stock classes, one at a time, tokenized as TRL does."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()

    def read(messages, **template):
        ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt", **template)
        with torch.no_grad():
            return model(**ids).logits.item()

    return read


def tokenized(rows, scorer, **options):
    data = rows if isinstance(rows, Dataset) else Dataset.from_list(rows)
    options = {"max_length": 512, "data_format": "chat", "show_progress": False, **options}
    return tokenize_preferences(data, scorer.tokenizer, **options)


def trl_ids(tokenizer, row, name):
    """Token ids as from the `tokenize_fn` of TRL's RewardTrainer."""
    tools = json.loads(row["tools"]) if isinstance(row.get("tools"), str) else row.get("tools")
    kwargs = {"tools": tools, **(row.get("chat_template_kwargs") or {})}
    return tokenizer.apply_chat_template(row["prompt"] + row[name], tokenize=True, return_dict=True, **kwargs)[
        "input_ids"
    ]


# ---- one text has one reward, through every entry point ----


@pytest.mark.parametrize("field", FIELDS)
def test_answers_that_differ_in_one_rendered_field_have_the_stock_class_rewards(
    field, scorer, stock, folder, make_trainer, tmp_path
):
    row = pair_of(field)
    expected = [stock(ASKED + row[name]) for name in ("chosen", "rejected")]
    assert abs(expected[0] - expected[1]) > 1e-3

    assert scorer.score([ASKED], [[row["chosen"], row["rejected"]]])[0] == pytest.approx(expected, abs=1e-5)

    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"prompt": ASKED, "completions": [row["chosen"], row["rejected"]]}) + "\n")
    score_file(scorer, "m", RecordFile(str(file)), tmp_path / "out.jsonl", ScoreOptions(), show_progress=False)
    assert json.loads((tmp_path / "out.jsonl").read_text())["reward"] == pytest.approx(expected, abs=1e-5)

    data = tokenized([row], scorer)
    assert len(data) == 1 and data.num_equal_pairs == 0
    for name, number in (("chosen", data.better[0]), ("rejected", data.worse[0])):
        assert data.sequence(number).tolist() == trl_ids(scorer.tokenizer, row, name)

    found = evaluate({"m": scorer}, {"test": Dataset.from_list([row])}, resamples=10, show_progress=False)
    assert np.sort(found.rewards["m"]["test"]) == pytest.approx(np.sort(expected), abs=1e-5)

    if field in ("tool_calls", "thinking"):
        trainer = make_trainer([row], folder, data_format="chat", max_length=512)
        rewards = trainer.compute_rewards(trainer.train_data)
        pair = [int(trainer.train_data.better[0]), int(trainer.train_data.worse[0])]
        assert rewards[pair] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("field", ["tool_calls", "reasoning_content"])
def test_a_template_that_ignores_a_field_makes_one_text_of_two_and_it_is_said(field, plain_scorer, caplog):
    row = pair_of(field)
    rewards = plain_scorer.score([ASKED], [[row["chosen"], row["rejected"]]])[0]
    assert rewards[0] == rewards[1] and f"does not render `{field}` of the messages" in caplog.text
    plain_scorer._checked_fields.clear()
    caplog.clear()

    data = tokenized([row], plain_scorer)
    assert data.num_sequences == 1 and len(data) == 1 and data.num_equal_pairs == 1
    assert "1 of 1 pairs have two texts that are equal to the model (1 equal as text)" in caplog.text
    assert "count as ties" in caplog.text
    other = {**row, "rejected": answer("lantern")}
    data = tokenized([row, other], plain_scorer, keep_equal=False)
    assert len(data) == 1 and data.num_equal_pairs == 1 and data.row.tolist() == [1]
    assert "left out of training" in caplog.text


def test_training_leaves_equal_pairs_out_and_what_it_saves_reads_back(make_trainer, folder, base_model, caplog):
    prompt = {"prompt": ASKED, "tools": json.dumps(TOOLS)}
    rows = [{**prompt, **{name: pair_of("tool_calls")[name] for name in ("chosen", "rejected")}}]
    rows += [{**prompt, "chosen": answer(f"{n}", weight=1), "rejected": answer(f"{n}", weight=2)} for n in range(3)]
    reader = AutoTokenizer.from_pretrained(base_model("qwen3"))
    reader.chat_template = TOOL_TEMPLATE
    options = {"data_format": "chat", "max_length": 512, "processing_class": reader, "max_steps": 1}
    trainer = make_trainer(rows, base_model("qwen3"), eval_rows={"test": rows}, **options)
    assert len(trainer.train_data) == 1 and len(trainer.eval_dataset["test"]) == 4
    assert "does not render `weight` of the messages" in caplog.text and "left out of training" in caplog.text
    trainer.train()
    metrics = trainer.evaluate()
    assert metrics["eval_test_num_pairs"] == 4 and metrics["eval_test_accuracy"] in (3 / 8, 5 / 8)
    trainer.save_model()
    assert trainer.reload_check() == 3
    with pytest.raises(InputError, match="not one pair"):
        make_trainer(rows[1:], base_model("qwen3"), **options)


def test_a_stream_says_once_what_it_does_not_read(make_trainer, base_model, caplog):
    rows = [
        {"prompt": ASKED, "chosen": answer(f"{n}", weight=1), "rejected": answer(f"{n}", weight=2)} for n in range(8)
    ]
    rows = [{**row, "rejected": answer("no")} if n % 2 else row for n, row in enumerate(rows)]
    stream = IterableDataset.from_generator(lambda: iter(rows))
    options = {"data_format": "chat", "max_steps": 4, "shuffle_buffer_size": 2, "per_device_train_batch_size": 1}
    trainer = make_trainer(stream, base_model("qwen3"), **options)
    trainer.train()
    assert caplog.text.count("does not render `weight`") == caplog.text.count("left out of training") == 1


def test_a_field_is_reported_once_for_a_scorer(plain_scorer, caplog):
    plain_scorer._checked_fields.clear()
    for _ in range(2):
        plain_scorer.score([ASKED], [answer(name="anna")])
    assert caplog.text.count("does not render") == 1


def test_tools_and_template_variables_belong_to_the_text(scorer, stock, tmp_path):
    messages = answer()
    columns = [{}, {"tools": TOOLS}, {"chat_template_kwargs": {"mood": "glad"}}, {"tools": json.dumps(TOOLS)}]
    expected = [stock(ASKED + messages), stock(ASKED + messages, tools=TOOLS), stock(ASKED + messages, mood="glad")]
    expected.append(expected[1])
    assert len({round(value, 4) for value in expected}) == 3
    given = {name: [row.get(name) for row in columns] for name in ("tools", "chat_template_kwargs")}
    assert scorer.score([ASKED] * 4, [messages] * 4, **given) == pytest.approx(expected, abs=1e-5)
    assert scorer.best_of_n(ASKED, [messages], tools=TOOLS)[1] == pytest.approx(expected[1:2], abs=1e-5)
    assert scorer.as_reward_function()([ASKED] * 4, [messages] * 4, **given) == pytest.approx(expected, abs=1e-5)

    file = tmp_path / "rows.jsonl"
    rows = [{"prompt": ASKED, "completion": messages, **row} for row in columns]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    score_file(scorer, "m", RecordFile(str(file)), tmp_path / "out.jsonl", ScoreOptions(), show_progress=False)
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["reward"] for row in written] == pytest.approx(expected, abs=1e-5)
    assert [{k: v for k, v in row.items() if k != "reward"} for row in written] == rows

    pairs = [{"prompt": ASKED, "chosen": messages, "rejected": answer("lantern"), **row} for row in columns[:3]]
    for row in pairs:
        data = tokenized([row], scorer)
        assert data.sequence(data.better[0]).tolist() == trl_ids(scorer.tokenizer, row, "chosen")
    mixed = Dataset.from_list(
        [
            {"chat_template_kwargs": None, **row, "tools": json.dumps(TOOLS) if "tools" in row else None}
            for row in pairs
        ]
    )
    data = tokenized(mixed, scorer)
    assert data.num_sequences == 6 and len(set(data.prompt.tolist())) == 3
    table = read_preferences(mixed, "test")
    assert len(table.completions) == 6 and len(set(table.prompt.tolist())) == 3
    found = evaluate({"m": scorer}, {"test": mixed}, resamples=10, show_progress=False)
    assert found.rewards["m"]["test"][table.better] == pytest.approx(expected[:3], abs=1e-5)


@given(
    field=st.sampled_from(["tool_calls", "reasoning_content", "name", "note", "weight", "id"]),
    value=st.one_of(st.text("abc", min_size=1), st.dictionaries(st.text("ab", min_size=1), st.integers(), min_size=1)),
    renders=st.booleans(),
)
def test_a_field_changes_the_ids_if_and_only_if_the_template_renders_it(scorer, field, value, renders):
    scorer.tokenizer.chat_template = "{% for m in messages %}{{ m.role }}:{{ m.content }}{% endfor %}" + (
        "{% for m in messages %}{{ m." + field + " | tojson if m." + field + " is defined }}{% endfor %}"
        if renders
        else ""
    )
    try:
        texts = [(ASKED, answer(**{field: value})), (ASKED, answer())]
        data, numbers = tokenize_texts(texts, scorer.tokenizer, max_length=512, data_format="chat")
    finally:
        scorer.tokenizer.chat_template = TOOL_TEMPLATE
    assert (numbers[0] != numbers[1]) == renders
    assert data.num_sequences == 1 + renders


def test_plain_rows_are_rendered_as_ever(scorer):
    row = {"prompt": ASKED, "chosen": answer(), "rejected": answer("lantern")}
    plain, padded = tokenized([row], scorer), tokenized([{**row, "chosen": answer(name=None)}], scorer)
    assert np.array_equal(plain.ids, padded.ids) and plain.num_sequences == padded.num_sequences == 2
    assert prompt_digest(ASKED, [answer()]) == "657491bb9f5dcb34"


# ---- null and parts ----


def test_a_content_that_is_null_is_what_the_template_makes_of_it(scorer, plain_scorer, stock):
    message = answer(None, tool_calls=call(q=1))
    assert scorer.score([ASKED], [message]) == pytest.approx([stock(ASKED + message)], abs=1e-5)
    with pytest.raises(InputError, match="chat template refuses some of the messages"):
        plain_scorer.score([ASKED], [message])
    with pytest.raises(InputError, match=r"`completion`, message 1: must be .*with a content or another field"):
        scorer.score([ASKED], [answer(None)])


def test_nulls_that_arrow_adds_are_taken_out_and_a_users_own_stay(tmp_path):
    rows = [pair_of("tool_calls"), {"prompt": ASKED, "chosen": answer(None, name="a"), "rejected": answer("b")}]
    table = Dataset.from_list(rows)
    assert table[0]["chosen"][0]["tool_calls"][0]["function"]["arguments"]["q"] == 1
    strip = null_stripper(table.features)
    assert strip(table[0])["chosen"] == rows[0]["chosen"]
    assert strip(table[1]) == rows[1]
    assert remove_none_values(table[0]["chosen"]) == rows[0]["chosen"]  # as TRL's documentation requires
    table.to_parquet(tmp_path / "rows.parquet")
    table.save_to_disk(tmp_path / "saved")
    for path in (tmp_path / "rows.parquet", tmp_path / "saved"):
        assert [record for _, record in read_records(RecordFile(str(path)))][1] == rows[1]
    assert null_stripper(Dataset.from_list([{"prompt": ASKED}]).features) is None


def test_parts_are_read_where_the_template_reads_them(scorer, plain_scorer, stock):
    parts = answer([{"type": "text", "text": "sto"}, {"type": "text", "text": "ne"}])
    assert scorer.score([ASKED], [parts]) == pytest.approx([stock(ASKED + answer())], abs=1e-5)
    with pytest.raises(InputError, match="chat template"):
        plain_scorer.score([ASKED], [parts])
    printed = AutoTokenizer.from_pretrained(plain_scorer.tokenizer.name_or_path)
    printed.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(InputError, match="does not render content that is a list of parts"):
        tokenize_texts([(ASKED, parts)], printed, max_length=512, data_format="chat")


@pytest.mark.parametrize("kind", ["image", "image_url", "input_audio"])
def test_images_and_sound_are_refused_by_row(kind, write, scorer):
    row = {"prompt": ASKED, "chosen": answer([{"type": kind, kind: "x"}]), "rejected": answer()}
    path = write("rows.jsonl", [pair_of("name"), row])
    with pytest.raises(InputError, match=rf"rows.jsonl, line 2: `chosen`, message 1: has a part of type '{kind}'"):
        build("jsonl", [path], BuildOptions(format="chat", test_size=0))
    with pytest.raises(InputError, match=rf"f.jsonl, line 3: .*'{kind}'"):
        read_row(Place("f.jsonl", "line", 3), {"prompt": ASKED, "completion": row["chosen"]}, scorer, ScoreOptions())


# ---- build-data ----

# Every kind of JSON value, in an order that sorting would change.
FREE = {"z": 1, "a": [{"y": None, "b": 1.0}], "big": 2**63, "low": 1e-7, "e": {}, "l": [], "t": True, "n": None}
FREE |= {
    "u": "é\u2028 \U0001f600",
    "deep": {"k": {"j": [[1], [], [None]]}},
    "1": '{"q": 1}',
    "b": 0.1 + 0.2,
    "c": 0.3,
    "d": 1 / 3,
}


def test_objects_of_free_shape_survive_unchanged(write, tmp_path):
    message = {"tool_calls": [{"function": {"arguments": FREE, "name": "f"}, "id": "c"}], "role": "assistant"}
    message |= {"content": None, "zero": 0, "none": "", "no": False, "list": [], "object": {}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"z": 1, "a": {"default": None}}}}]
    first = {"prompt": ASKED, "chosen": [message], "rejected": answer("b"), "tools": tools}
    first["chat_template_kwargs"] = {"z": None, "a": {"k": [1, None]}}
    other = {
        "prompt": ASKED,
        "chosen": answer("x", tool_calls="text"),
        "rejected": answer("y", tool_calls=[1, "a", None]),
    }
    rows = [first, other]
    spec = {"path": write("rows.jsonl", rows), "source": "jsonl"}
    save(built(write, rows, "again.jsonl"), tmp_path / "built")
    folder = str(tmp_path / "built")
    for place, streaming in ((spec, False), (spec, True), (folder, False), (folder, True)):
        data = load_datasets({"d": place}, "train", format="chat", streaming=streaming)["d"]
        for row, found in zip(rows, data, strict=True):
            texts = found["completions"] if "completions" in found else [found["chosen"], found["rejected"]]
            assert json.dumps(texts) == json.dumps([row["chosen"], row["rejected"]])  # including the order of keys
            assert json.dumps(found["tools"]) == json.dumps(row.get("tools"))
            assert json.dumps(found["chat_template_kwargs"] or {}) == json.dumps(row.get("chat_template_kwargs", {}))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (2**64, "the number 18446744073709551616, which has more than 64 bits"),
        (float("nan"), "nan, which JSON cannot store"),
        ("\ud800", "half of a surrogate pair"),
    ],
)
def test_what_would_come_back_as_something_else_is_refused_by_row(value, said, write):
    rows = [pair_of("name"), {**pair_of("name"), "chosen": answer("a", tool_calls=call(q=[value]))}]
    with pytest.raises(InputError, match=rf"rows.jsonl, line 2: .*{said}.*Write it as text"):
        built(write, rows)
    assert built(write, rows, skip_invalid=True).counts["train"].invalid == 1
    rows[1] = {**pair_of("name"), "chat_template_kwargs": {"deep": {"x": value}}}
    with pytest.raises(InputError, match=rf"rows.jsonl, line 2: .*{said}"):
        built(write, rows)


FIELD_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text("ab{}:\"'\n ", max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=4,
)
SPOKEN = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant"]), "content": st.none() | st.text('ab{}:"', max_size=3)},
    optional={"name": FIELD_VALUES, "tool_calls": FIELD_VALUES},
)


@given(one=st.lists(SPOKEN, min_size=1, max_size=2), other=st.lists(SPOKEN, min_size=1, max_size=2))
def test_without_a_tokenizer_two_texts_are_one_if_all_their_fields_are(one, other):
    one, other = (
        [{k: v for k, v in m.items() if v is not None or k == "content"} for m in text] for text in (one, other)
    )
    equal = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (normalize(one) == normalize(other)) == (text_key([], one) == text_key([], other)) == equal


def test_parts_and_a_null_are_other_texts_than_a_string(write):
    parts = answer([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])
    calls = call(q=1)
    rows = [
        {"prompt": ASKED, "chosen": parts, "rejected": answer("ab")},
        {"prompt": ASKED, "chosen": answer(None, tool_calls=calls), "rejected": answer("", tool_calls=calls)},
        {"prompt": ASKED, "chosen": answer("a  b", name="c"), "rejected": answer("a b", name="c")},
    ]
    counts = built(write, rows).counts["train"]
    assert (counts.kept, counts.identical) == (2, 1)


def built(write, rows, name="rows.jsonl", **options):
    options = BuildOptions(**{"format": "chat", "test_size": 0, **options})
    return build("jsonl", [write(name, rows)], options)


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("layout", ["pairs", "ranked"])
def test_build_data_keeps_every_field(field, layout, write, tmp_path, scorer):
    rows = [pair_of(field), {"prompt": ASKED, "chosen": answer("a"), "rejected": answer("b")}]
    result = built(write, rows, layout=layout)
    save(result, tmp_path / "built")
    data = load_from_disk(str(tmp_path / "built"))["train"]
    found = [[r["chosen"], r["rejected"]] for r in data] if layout == "pairs" else data["completions"]
    assert list(found) == [[row["chosen"], row["rejected"]] for row in rows]
    assert tokenized(data, scorer).num_sequences == 4
    for other in (ranked_to_pairs, pairs_to_ranked):
        if (other is ranked_to_pairs) == (layout == "ranked"):
            assert tokenized(other(data), scorer).num_sequences == 4
    data.to_parquet(tmp_path / "rows.parquet")
    again = load_dataset("parquet", data_files=str(tmp_path / "rows.parquet"), split="train", cache_dir=str(tmp_path))
    assert again.features == data.features and list(again) == list(data)


def test_what_is_built_has_the_nulls_of_the_user_and_no_others(write):
    rows = [pair_of("tool_calls"), {**pair_of("tool_calls"), "rejected": answer(None, tool_calls=call(q=None, r=[]))}]
    data = built(write, rows).datasets["train"]
    assert list(data["rejected"]) == [row["rejected"] for row in rows]


def test_tools_and_variables_are_columns_of_what_is_built(write, scorer):
    plain = {"prompt": ASKED, "chosen": answer("a"), "rejected": answer("b")}
    rows = [plain, {**plain, "tools": TOOLS}, {**plain, "chat_template_kwargs": {"mood": "glad"}}, plain]
    data = built(write, rows).datasets["train"]
    assert list(data["tools"]) == [None, TOOLS, None]
    assert list(data["chat_template_kwargs"]) == [{}, {}, {"mood": "glad"}]
    ids = list(data["prompt_id"])
    assert len(set(ids)) == 3 and ids[0] == prompt_digest(ASKED, [])
    assert tokenized(data, scorer).num_sequences == 6


def test_both_splits_have_the_same_columns_and_are_published_as_they_are(write, tmp_path):
    plain = {"prompt": ASKED, "chosen": answer("a"), "rejected": answer("b")}
    rows = [{**pair_of("name"), "tools": TOOLS, "chat_template_kwargs": {"mood": "glad"}}]
    inputs = [f"train={write('train.jsonl', rows)}", f"test={write('test.jsonl', [plain])}"]
    result = build("jsonl", inputs, BuildOptions(format="chat"))
    assert result.datasets["train"].features == result.datasets["test"].features
    assert result.datasets["test"][0] | plain == result.datasets["test"][0]
    assert (result.datasets["test"]["tools"][0], result.datasets["test"]["chat_template_kwargs"][0]) == (None, {})
    save(result, tmp_path / "built")
    preview_dataset(str(tmp_path / "built"), "me/calls", str(tmp_path / "preview"))
    assert "| `chosen` | list of object (JSON) |" in (tmp_path / "preview" / "README.md").read_text()
    published = load_dataset(str(tmp_path / "preview"), cache_dir=str(tmp_path / "cache"))
    for split, data in result.datasets.items():
        assert published[split].features == data.features and list(published[split]) == list(data)


def test_inspect_counts_calls_as_the_answers_that_they_are(write, tmp_path, folder):
    plain = {"prompt": ASKED, "chosen": answer("a"), "rejected": answer("b")}
    rows = [pair_of("tool_calls", ""), plain, {**plain, "tools": TOOLS}]
    save(built(write, rows), tmp_path / "built")
    save(built(write, [plain], "other.jsonl"), tmp_path / "other")
    against = {"other": str(tmp_path / "other")}
    found = inspect_dataset(str(tmp_path / "built"), tokenizer=folder, against=against, show_progress=False).result
    counts = found["counts"]["all"]
    assert (counts["clean_pairs"], counts["empty"], counts["duplicates"], counts["prompts"]) == (3, 0, 0, 2)
    assert found["texts"] == 6 and found["overlap"]["other"]["texts"] == 2


def test_rows_of_roles_and_contents_are_built_as_ever(write):
    rows = [{"prompt": ASKED, "chosen": answer("a", name=None), "rejected": answer("b"), "tools": None}]
    data = built(write, rows).datasets["train"]
    assert sorted(data.column_names) == sorted(
        ["prompt", "chosen", "rejected", "score_chosen", "score_rejected", "domain", "source", "prompt_id"]
    )
    assert set(data.features["chosen"].feature) == {"role", "content"}


def test_a_call_is_no_empty_answer_and_a_repeated_one_is(write):
    calls = {
        "prompt": ASKED,
        "chosen": answer("", tool_calls=call(q=1)),
        "rejected": answer(None, tool_calls=call(q=2)),
    }
    same = {**calls, "rejected": calls["chosen"]}
    empty = {**calls, "rejected": answer("", name="anna")}
    counts = built(write, [calls, same, empty, calls]).counts["train"]
    assert (counts.kept, counts.identical, counts.empty, counts.duplicates) == (1, 1, 1, 1)


@pytest.mark.parametrize(
    "more", [{"chosen": answer(name="anna")}, {"tools": TOOLS}, {"chat_template_kwargs": {"a": 1}}]
)
def test_the_text_format_refuses_what_only_a_template_renders(more, write, tmp_path):
    row = {"prompt": ASKED, "chosen": answer("a"), "rejected": answer("b")}
    name = "name" if "chosen" in more else next(iter(more))
    with pytest.raises(InputError, match=rf"rows.jsonl, line 2: '{name}' would not be read.*--format chat"):
        built(write, [row, {**row, **more}], format="text")
    counts = built(write, [row, {**row, **more}], "again.jsonl", format="text", skip_invalid=True).counts["train"]
    assert (counts.kept, counts.invalid) == (1, 1)
    if "chosen" not in more:
        ignored = built(write, [{**row, **more}], "ignored.jsonl", format="text", ignore_columns=(name,))
        assert ignored.counts["train"].kept == 1
    save(built(write, [row, {**row, **more}], "chat.jsonl"), tmp_path / "built")
    with pytest.raises(InputError, match=f"'{name}' would not be read"):
        load_datasets({"d": str(tmp_path / "built")}, "train", format="text")
    with pytest.raises(InputError, match=f"'{name}' would not be read"):
        list(load_datasets({"d": str(tmp_path / "built")}, "train", format="text", streaming=True)["d"])


@pytest.mark.parametrize(
    ("column", "value", "problem"),
    [
        ("tools", "[1", "not valid JSON"),
        ("tools", {"a": 1}, "must be a list of JSON schemas"),
        ("chat_template_kwargs", [1], "must be an object"),
        ("chat_template_kwargs", {"tokenize": False}, "'tokenize', which no chat template reads"),
    ],
)
def test_columns_of_another_kind_are_refused(column, value, problem, write, scorer):
    row = {"prompt": ASKED, "chosen": answer("a"), "rejected": answer("b"), column: value}
    with pytest.raises(InputError, match=f"rows.jsonl, line 1: .*{problem}"):
        built(write, [row])
    with pytest.raises(InputError, match=problem):
        tokenized([row], scorer)
    with pytest.raises(InputError, match=problem):
        scorer.score([ASKED], [answer()], **{column: [value]})


def test_streams_read_what_whole_data_read(write, scorer, tmp_path):
    rows = [pair_of("tool_calls"), {**pair_of("name"), "tools": TOOLS, "chat_template_kwargs": {"mood": "glad"}}]
    spec = {"path": write("rows.jsonl", rows), "source": "jsonl"}
    whole = load_datasets({"d": spec}, "train", format="chat")["d"]
    save(built(write, rows, "again.jsonl"), tmp_path / "built")
    for given_as in (spec, str(tmp_path / "built")):
        streamed = list(load_datasets({"d": given_as}, "train", format="chat", streaming=True)["d"])
        assert [row["completions"] for row in streamed] == list(whole["completions"])
        assert [row["tools"] for row in streamed] == list(whole["tools"])
        assert [row["chat_template_kwargs"] or {} for row in streamed] == list(whole["chat_template_kwargs"])


def test_sets_with_and_without_such_fields_can_be_mixed(write, scorer):
    from datasets import concatenate_datasets

    plain = built(write, [{"prompt": ASKED, "chosen": answer("a"), "rejected": answer("b")}], "a.jsonl").datasets[
        "train"
    ]
    calls = built(write, [{**pair_of("tool_calls"), "tools": TOOLS}], "b.jsonl").datasets["train"]
    mixed = concatenate_datasets(with_same_messages([plain, calls]))
    assert list(mixed["chosen"]) == [answer("a"), pair_of("tool_calls")["chosen"]]
    assert tokenized(mixed, scorer).num_sequences == 4
    assert with_same_messages([plain, plain]) == [plain, plain]


@pytest.fixture(autouse=True)
def warnings_are_caught(caplog):
    caplog.set_level(logging.WARNING, logger="rm_toolkit")
