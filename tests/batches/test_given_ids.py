"""Inputs of TRL's trainer work in ours: token ids, a string beside messages. What no text model reads is named."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoConfig

from rm_toolkit.batches.stream import PreferenceStream
from rm_toolkit.batches.stream_plan import gather_pairs
from rm_toolkit.batches.tokenization import tokenize_preferences, tokenize_rows
from rm_toolkit.data.build import BuildOptions, build
from rm_toolkit.data.mixture import DatasetSpec, check_overlap, load_datasets
from rm_toolkit.errors import InputError
from rm_toolkit.evaluation.preferences import read_preferences
from rm_toolkit.models.tokenizer import load_tokenizer, prepare_tokenizer
from rm_toolkit.training.refused import leave_out_refused
from rm_toolkit.training.stage_streams import sample_texts
from rm_toolkit.training.stages import mix


CHAT = (
    "{% if tools %}{{ tools[0]['name'] }}: {% endif %}{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture
def tokenizer_of(base_model):
    def get(max_length=64, data_format="text"):
        tokenizer = load_tokenizer(base_model())
        tokenizer.chat_template = CHAT
        config = AutoConfig.from_pretrained(base_model())
        return prepare_tokenizer(tokenizer, config, max_length=max_length, data_format=data_format)

    return get


def read(rows, tokenizer, data_format="text", **options):
    options = {"max_length": tokenizer.model_max_length, "show_progress": False, **options}
    return tokenize_preferences(Dataset.from_list(rows), tokenizer, data_format=data_format, **options)


def as_ids(rows, tokenizer):
    return [
        {f"{name}_ids": tokenizer(row["prompt"] + row[name])["input_ids"] for name in ("chosen", "rejected")}
        | {name: row[name] for name in ("margin", "score_chosen", "score_rejected") if name in row}
        for row in rows
    ]


def sequences(data, which):
    return [data.sequence(k).tolist() for k in which]


def test_token_ids_are_read_as_they_are(tokenizer_of, rows):
    tokenizer = tokenizer_of()
    texts = rows.pairs(5, margin=lambda number: number / 4)
    expected = read(texts, tokenizer)
    given = as_ids(texts, tokenizer)
    old = [{"chosen_input_ids": row["chosen_ids"], "rejected_input_ids": row["rejected_ids"]} for row in given]
    for found in (read(given, tokenizer), read(old, tokenizer)):
        for side in ("better", "worse"):
            assert sequences(found, getattr(found, side)) == sequences(expected, getattr(expected, side))
        assert len(set(found.prompt.tolist())) == 5 and found.num_truncated == 0
    assert np.array_equal(read(given, tokenizer).margin, expected.margin)


def test_a_run_on_token_ids_has_the_loss_of_the_run_on_texts(
    make_trainer, tokenizer_of, rows, step_gradients, tmp_path
):
    texts = rows.pairs(8)
    options = {"pairs_per_step": 8, "max_length": 64}
    loss, gradients = step_gradients(make_trainer(texts, **options))
    trainer = make_trainer(as_ids(texts, tokenizer_of()), eval_rows=as_ids(texts, tokenizer_of()), **options)
    found, other = step_gradients(trainer)
    assert found == pytest.approx(loss, abs=1e-6)
    assert all(torch.allclose(other[name], gradient, atol=1e-6) for name, gradient in gradients.items())
    trainer.save_model(str(tmp_path / "saved"))
    assert "eval_accuracy" in trainer.evaluate()


def test_what_two_texts_share_is_their_prompt(tokenizer_of):
    data = read([{"chosen_ids": [1, 5, 6, 7], "rejected_ids": [1, 5, 8]}], tokenizer_of())
    assert data.completion_start[[data.better[0], data.worse[0]]].tolist() == [2, 2]


def test_ids_that_are_too_long_lose_their_beginning_and_keep_bos(tokenizer_of):
    tokenizer = tokenizer_of(max_length=4)
    bos = tokenizer.bos_token_id
    data = read([{"chosen_ids": [bos, 5, 6, 7, 8, 9], "rejected_ids": [5, 6, 7, 8, 10]}], tokenizer)
    assert sequences(data, data.better) == [[bos, 7, 8, 9]] and sequences(data, data.worse) == [[6, 7, 8, 10]]
    assert (data.num_truncated, data.num_truncated_tokens) == (2, 3)


def test_pairs_of_the_same_ids_teach_nothing(tokenizer_of):
    rows = [{"chosen_ids": [5, 6], "rejected_ids": [5, 6]}, {"chosen_ids": [5, 6], "rejected_ids": [7]}]
    assert len(read(rows, tokenizer_of(), keep_equal=False)) == 1
    data = read(rows, tokenizer_of())
    assert len(data) == 2 and data.num_equal_pairs == 1 and data.num_sequences == 2


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"chosen_ids": [5], "rejected_ids": [99999]},
            "row 1: `rejected_ids` has the token id 99999, but the tokenizer has",
        ),
        ({"chosen_ids": [5], "rejected_ids": [-1]}, "`rejected_ids` has the token id -1"),
        ({"chosen_ids": [5], "rejected_ids": []}, "`rejected_ids` must be a list of token ids, got a list of 0"),
        ({"chosen_ids": [5], "rejected_ids": None}, "`rejected_ids` must be a list of token ids, got null"),
        ({"chosen_ids": [5.5], "rejected_ids": [4.0]}, "`chosen_ids` must be a list of token ids"),
        ({"chosen_ids": [5], "rejected_ids": [4], "score_chosen": 0, "score_rejected": 1}, "the labels contradict"),
    ],
)
def test_what_is_no_token_is_refused_with_its_row(tokenizer_of, row, message):
    with pytest.raises(InputError, match=message):
        read([row], tokenizer_of())


@pytest.mark.parametrize("shape", ["jsonl", "parquet", "folder", "old names"])
def test_a_recipe_reads_token_ids_whole_and_as_a_stream(tokenizer_of, rows, tmp_path, shape):
    tokenizer = tokenizer_of()
    given = as_ids(rows.pairs(6, margin=lambda number: number / 4), tokenizer)
    expected = read(given, tokenizer)
    if shape == "old names":
        given = [{name.replace("_ids", "_input_ids"): value for name, value in row.items()} for row in given]
    path = tmp_path / ("rows" if shape == "folder" else "rows.parquet" if shape == "parquet" else "rows.jsonl")
    dataset = Dataset.from_list(given)
    write = {"folder": dataset.save_to_disk, "parquet": dataset.to_parquet}.get(shape, dataset.to_json)
    write(str(path))
    spec = {"a": str(path)} if shape == "jsonl" else {"a": {"path": str(path), "source": "preference"}}
    options = {"cache_dir": str(tmp_path / "cache")}
    loaded = load_datasets(spec, "train", **options)["a"]
    found = tokenize_preferences(loaded, tokenizer, max_length=64, show_progress=False)
    for side in ("better", "worse"):
        assert sequences(found, getattr(found, side)) == sequences(expected, getattr(expected, side))
    assert np.array_equal(found.margin, expected.margin)
    assert (
        len(loaded.unique("prompt_id")) == 6
        and len(check_overlap({"a": loaded}, {"b": loaded}, allow_overlap=True)) == 1
    )
    half = load_datasets({"a": {**DatasetSpec.parse(spec["a"], "a").__dict__, "fraction": 0.5}}, "train", **options)[
        "a"
    ]
    assert len(half) == 3

    rows_of_stream = load_datasets(spec, "train", streaming=True)["a"]
    tokenize = functools.partial(tokenize_rows, tokenizer=tokenizer, max_length=64)
    stream = PreferenceStream(rows_of_stream, tokenize, num_tokens=len(tokenizer))
    data = gather_pairs(stream.take(stream.available(6)), "train")
    assert sorted(sequences(data, data.better)) == sorted(sequences(expected, expected.better))
    assert sorted(sequences(data, data.worse)) == sorted(sequences(expected, expected.worse))


def test_a_stream_of_token_ids_trains(make_trainer, tokenizer_of, rows):
    given = as_ids(rows.pairs(6), tokenizer_of())
    options = {"max_steps": 2, "pairs_per_step": 4, "shuffle_buffer_size": 4}
    trainer = make_trainer(Dataset.from_list(given).to_iterable_dataset(), **options)
    trainer.train()
    assert trainer.state.global_step == 2 and trainer.train_dataset.num_rows >= 6


FAULTS = {
    "a text": ('{"chosen_ids": [5], "rejected_ids": "x"}', {}, r"line 2: `rejected_ids` must be a list of token ids"),
    "labels": (
        '{"chosen_ids": [5], "rejected_ids": [6], "score_chosen": 0, "score_rejected": 1}',
        {},
        "line 2: .* the labels contradict the scores",
    ),
    "other columns": ('{"chosen": "a", "rejected": "b"}', {}, "line 2: the row must have the token ids `chosen_ids`"),
    "a key of texts": ("", {"label": "best"}, "has token ids, for which 'label' has no use; remove it"),
    "ranked": ("", {"layout": "ranked"}, "has pairs of token ids, which cannot be ranked rows; remove `layout`"),
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_token_ids_is_named_with_its_line(tmp_path, fault, streaming):
    line, more, message = FAULTS[fault]
    path = tmp_path / "rows.jsonl"
    path.write_text('{"chosen_ids": [5, 6], "rejected_ids": [5, 7]}\n' + line + "\n")
    spec = {"path": str(path), **more}
    with pytest.raises(InputError, match=message):
        list(load_datasets({"a": spec}, "train", streaming=streaming, cache_dir=str(tmp_path / "cache"))["a"])
    if line:
        skipping = {"a": {**spec, "skip_invalid": True}}
        kept = leave_out_refused(load_datasets(skipping, "train", streaming=streaming), skipping, None, "chat")["a"]
        assert len(list(kept)) == 1


def test_where_texts_are_wanted_ids_are_refused_in_words(tmp_path):
    row = {"chosen_ids": [5, 6], "rejected_ids": [5, 7]}
    with pytest.raises(
        InputError, match="test set 'mine' has token ids, which only training and its test sets can read"
    ):
        read_preferences(Dataset.from_list([row]), "mine")
    for name, rows in (("ids", row), ("texts", {"prompt": "p", "chosen": "c", "rejected": "r"})):
        Dataset.from_list([rows]).to_json(str(tmp_path / f"{name}.jsonl"))
    ids = load_datasets({"a": str(tmp_path / "ids.jsonl")}, "train")
    texts = load_datasets({"b": str(tmp_path / "texts.jsonl")}, "train")
    with pytest.raises(InputError, match="dataset 'a' has token ids and 'b' texts, which cannot be mixed"):
        mix({**ids, **texts})
    with pytest.raises(InputError, match="`tiny_base` trains its tokenizer on texts"):
        next(sample_texts(ids))
    path = tmp_path / "rows.jsonl"
    path.write_text('{"chosen_ids": [5, 6], "rejected_ids": [5, 7]}\n')
    for source in ("preference", "auto"):
        with pytest.raises(InputError, match=r"the rows are token ids .*name the file directly in a recipe"):
            build(source, [str(path)], BuildOptions(cache_dir=str(tmp_path / "cache")))


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


WHOLE = {name: [user("river"), assistant(text)] for name, text in (("chosen", "stone"), ("rejected", "garden"))}
MIXED = {
    "a string that the dialogues repeat": {"prompt": "river", **WHOLE},
    "a string before what was answered": {"prompt": "river", "chosen": [assistant("stone")], "rejected": [assistant("garden")]},
    "messages before strings": {"prompt": [user("river")], "chosen": "stone", "rejected": "garden"},
    "ranked": {"prompt": "river", "completions": [[assistant("garden")], [assistant("stone")]], "scores": [0, 1]},
}  # fmt: skip


@pytest.mark.parametrize("form", MIXED)
def test_a_string_beside_messages_is_read_as_messages(tokenizer_of, form):
    tokenizer = tokenizer_of(data_format="chat")
    data = read([MIXED[form]], tokenizer, "chat")
    expected = tokenizer.encode("<user>river<assistant>stone", add_special_tokens=False)
    assert sequences(data, data.better) == [expected]
    assert read_preferences(Dataset.from_list([MIXED[form]]), "mine").prompts[0] == [user("river")]


def test_tools_beside_an_implicit_prompt_are_rendered(tokenizer_of):
    tokenizer = tokenizer_of(data_format="chat")
    data = read([{**WHOLE, "tools": [{"name": "search"}]}], tokenizer, "chat")
    assert tokenizer.decode(data.sequence(data.better[0])) == "search: <user>river<assistant>stone"


@pytest.mark.parametrize("kind", ["image", "audio"])
def test_a_part_that_is_not_text_is_refused_with_its_row(tokenizer_of, kind):
    part = {"role": "user", "content": [{"type": "text", "text": "river"}, {"type": kind, kind: "x.bin"}]}
    good = {"prompt": [{"role": "user", "content": [{"type": "text", "text": "river"}]}]}
    answers = {"chosen": [assistant("stone")], "rejected": [assistant("garden")]}
    with pytest.raises(InputError, match=f"row 2: `prompt`, message 1 has a part of type '{kind}' in its content"):
        read([{**good, **answers}, {"prompt": [part], **answers}], tokenizer_of(data_format="chat"), "chat")
