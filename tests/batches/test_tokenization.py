"""Tokenization of rows: which texts, which pairs, what is cut, and that the saved tokenizer agrees."""

from __future__ import annotations

import random

import numpy as np
import pytest
from datasets import Dataset
from transformers import AutoConfig, AutoTokenizer

from rm_toolkit.batches.preference_rows import as_row
from rm_toolkit.batches.tokenization import tokenize_preferences
from rm_toolkit.data.records import RowPlace
from rm_toolkit.errors import InputError
from rm_toolkit.models.tokenizer import load_tokenizer, prepare_tokenizer


@pytest.fixture
def tokenizer_of(base_model):
    def get(architecture="llama", max_length=512, chat_template=None, **options):
        folder = base_model(architecture)
        tokenizer = load_tokenizer(folder)
        if chat_template is not None:
            tokenizer.chat_template = chat_template
        return prepare_tokenizer(tokenizer, AutoConfig.from_pretrained(folder), max_length=max_length, **options)

    return get


def tokenized(rows, tokenizer, **options):
    options = {"max_length": tokenizer.model_max_length, "show_progress": False, **options}
    return tokenize_preferences(Dataset.from_list(rows), tokenizer, **options)


def pair(prompt, chosen, rejected, **columns):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **columns}


def ranked(prompt, completions, scores, **columns):
    return {"prompt": prompt, "completions": completions, "scores": scores, **columns}


def texts_of(data, tokenizer, which):
    return [tokenizer.decode(data.sequence(k), skip_special_tokens=True) for k in which]


# ---- which pairs ----


def test_a_pair_is_two_sequences_of_prompt_and_completion_in_one(tokenizer_of):
    tokenizer = tokenizer_of()
    data = tokenized([pair("river stone", " lantern", " garden")], tokenizer)
    assert texts_of(data, tokenizer, data.better) == ["river stone lantern"]
    assert texts_of(data, tokenizer, data.worse) == ["river stone garden"]
    assert len(data) == 1 and data.num_sequences == 2


def test_a_text_that_stands_in_several_pairs_is_one_sequence(tokenizer_of):
    rows = [pair("river", " stone", " garden"), pair("river", " stone", " window"), pair("ri", "ver stone", "x")]
    data = tokenized(rows, tokenizer_of())
    assert data.num_sequences == 4
    assert len(set(data.better.tolist())) == 1


def test_ranked_rows_give_all_pairs_that_are_no_ties(tokenizer_of):
    tokenizer = tokenizer_of()
    data = tokenized([ranked("p ", ["one", "two", "three", "four"], [0.5, 2.0, 0.5, -1.0])], tokenizer)
    found = set(zip(texts_of(data, tokenizer, data.better), texts_of(data, tokenizer, data.worse)))
    assert found == {
        ("p two", "p one"),
        ("p two", "p three"),
        ("p two", "p four"),
        ("p one", "p four"),
        ("p three", "p four"),
    }
    assert data.num_label_ties == 1


def test_first_two_are_the_two_best_scored_of_each_row_in_reverse_order_where_tied(tokenizer_of):
    tokenizer = tokenizer_of()
    rows = [
        ranked("a ", ["low", "best", "mid", "second"], [0.0, 1.0, 0.0, 0.0]),  # of three tied ones, the last counts
        ranked("b ", ["x", "y"], [1.0, 1.0]),  # the two best are tied: no first two
        ranked("c ", ["x", "y"], [1.0, 2.0]),
    ]
    data = tokenized(rows, tokenizer)
    assert [texts_of(data, tokenizer, two) for two in data.first_two] == [["a best", "a second"], ["c y", "c x"]]
    assert data.num_label_ties == 3 + 1


def test_margin_comes_from_the_row_and_is_zero_where_it_has_none(tokenizer_of):
    data = tokenized([pair("a ", "b", "c", margin=1.5), pair("a ", "d", "e", margin=None)], tokenizer_of())
    assert data.margin.tolist() == [1.5, 0.0]
    assert tokenized([pair("a ", "b", "c")], tokenizer_of()).margin is None


def test_rows_with_an_implicit_prompt_are_read_as_they_are(tokenizer_of):
    tokenizer = tokenizer_of()
    data = tokenized([{"chosen": "river stone", "rejected": "river garden"}], tokenizer)
    assert texts_of(data, tokenizer, data.better) == ["river stone"]


def test_rows_without_a_prompt_are_no_group(tokenizer_of):
    """Otherwise, a dataset without prompts would be one group and never be shuffled."""
    rows = [{"chosen": f"river {k}", "rejected": f"stone {k}"} for k in range(5)]
    assert len(set(tokenized(rows, tokenizer_of()).prompt.tolist())) == 5
    chat = [
        {"chosen": [{"role": "user", "content": f"{k}"}], "rejected": [{"role": "user", "content": f"x {k}"}]}
        for k in range(5)
    ]
    data = tokenized(chat, tokenizer_of("qwen3", data_format="chat"), data_format="chat")
    assert len(set(data.prompt.tolist())) == 5


def test_pairs_of_one_prompt_share_its_number(tokenizer_of):
    rows = [pair("a ", "x", "y"), pair("b ", "x", "y"), pair("a ", "z", "y")]
    assert tokenized(rows, tokenizer_of()).prompt.tolist() == [0, 1, 0]
    # An explicit id decides, here for two spellings of one question.
    rows = [pair("a ", "x", "y", prompt_id="1"), pair("a  ", "x", "y", prompt_id="1")]
    assert tokenized(rows, tokenizer_of()).prompt.tolist() == [0, 0]


# ---- which texts count for the LM loss ----


@pytest.mark.parametrize(
    "scores, threshold, expected",
    [
        ([1.0, 0.0], 0.85, [True, False]),
        ([10.0, 9.0], 0.85, [True, True]),  # 9 / 10.00001 = 0.9
        ([10.0, 8.0], 0.85, [True, False]),
        ([10.0, 8.0], 0.75, [True, True]),
        ([0.0, -1.0], 0.85, [True, False]),  # best <= 0: only the best
        ([-2.0, -3.0], 0.0, [True, False]),
    ],
)
def test_texts_above_the_share_of_the_best_score_count(tokenizer_of, scores, threshold, expected):
    data = tokenized([ranked("a ", ["x", "y"], scores)], tokenizer_of(), lm_score_threshold=threshold)
    assert [bool(data.lm_better[0]), bool(data.lm_worse[0])] == expected


def test_pairs_without_scores_count_the_chosen_text(tokenizer_of):
    for scores in ({}, {"score_chosen": None, "score_rejected": None}):
        data = tokenized([pair("a ", "x", "y", **scores)], tokenizer_of())
        assert (data.lm_better.tolist(), data.lm_worse.tolist()) == ([True], [False])
        assert len(data) == 1


# ---- ids ----


def random_texts(number, seed=3):
    rng = random.Random(seed)
    pieces = ["river", " stone", "\n\n", "## Human:\n", "  two", "é", "😀", " 12", "\t", ".", " Assistant:"]
    return ["".join(rng.choices(pieces, k=rng.randint(1, 30))) for _ in range(number)]


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
@pytest.mark.parametrize("pooling_type", ["last", "eos"])
def test_ids_are_those_of_the_saved_tokenizer_with_truncation(tokenizer_of, tmp_path, architecture, pooling_type):
    tokenizer = tokenizer_of(architecture, max_length=16, pooling_type=pooling_type)
    tokenizer.save_pretrained(tmp_path)
    saved = AutoTokenizer.from_pretrained(tmp_path)
    texts = random_texts(40)
    rows = [pair(text[: len(text) // 2], text[len(text) // 2 :], " other") for text in texts]
    data = tokenized(rows, tokenizer)
    assert data.num_truncated > 5
    for text, k in zip(texts, data.better):
        assert data.sequence(k).tolist() == saved(text, truncation=True)["input_ids"]
    # The tokenizer is unchanged: the options of the call are not left behind in its backend.
    assert tokenizer(texts[0], truncation=True)["input_ids"] == saved(texts[0], truncation=True)["input_ids"]


def test_what_is_cut_is_counted(tokenizer_of):
    tokenizer = tokenizer_of(max_length=16)
    long, short = "river stone lantern " * 9, "river"
    whole = len(tokenizer(long)["input_ids"])
    data = tokenized([pair("", long, short), pair("", short + " window", long)], tokenizer)
    assert (data.num_truncated, data.num_truncated_tokens) == (1, whole - 16)  # one distinct text
    assert data.lengths.max() == 16


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_the_completion_begins_with_its_first_token(tokenizer_of, architecture):
    tokenizer = tokenizer_of(architecture)
    prompt, completion = "## Human:\nriver\n\n## Assistant:\n", "Stone lantern"
    data = tokenized([pair(prompt, completion, "No")], tokenizer)
    k = data.better[0]
    ids, start = data.sequence(k), data.completion_start[k]
    assert tokenizer.decode(ids[start:], skip_special_tokens=True).strip() == completion
    assert tokenizer.decode(ids[:start], skip_special_tokens=True).strip() == prompt.strip()


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_the_completion_begins_earlier_where_the_prompt_is_cut(tokenizer_of, architecture):
    tokenizer = tokenizer_of(architecture, max_length=12)
    data = tokenized([pair("river stone " * 20, "\nlantern window", "\nno")], tokenizer)
    k = data.better[0]
    assert len(data.sequence(k)) == 12
    assert tokenizer.decode(data.sequence(k)[data.completion_start[k] :]).strip() == "lantern window"
    # A completion that is longer than the limit takes all of it, after BOS
    data = tokenized([pair("river", "stone lantern " * 20, "no")], tokenizer)
    bos = data.sequence(data.better[0])[0] == tokenizer.bos_token_id
    assert data.completion_start[data.better[0]] == int(bos)


# ---- chat ----


def messages(*contents):
    return [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 9, contents)]


def chat_pair(prompt, chosen, rejected):
    reply = [{"role": "assistant", "content": text} for text in (chosen, rejected)]
    return pair(messages(*prompt), [reply[0]], [reply[1]])


def test_chat_ids_are_those_of_the_template(tokenizer_of):
    tokenizer = tokenizer_of("qwen3", data_format="chat")
    data = tokenized([chat_pair(["river?"], "stone", "window")], tokenizer, data_format="chat")
    expected = tokenizer.apply_chat_template(messages("river?", "stone"), tokenize=True, return_dict=True)
    k = data.better[0]
    assert data.sequence(k).tolist() == expected["input_ids"]
    assert tokenizer.decode(data.sequence(k)[data.completion_start[k] :]) == "stone<|im_end|>\n"


LLAMA3_LIKE = (
    "{{ bos_token }}{% for message in messages %}{{ '[' + message['role'] + ']\\n' + message['content'] + eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '[assistant]\\n' }}{% endif %}"
)


@pytest.mark.parametrize("architecture, template", [("qwen3", None), ("llama", LLAMA3_LIKE)])
def test_chat_over_the_length_is_cut_as_the_saved_tokenizer_cuts(tokenizer_of, tmp_path, architecture, template):
    tokenizer = tokenizer_of(architecture, max_length=16, data_format="chat", chat_template=template)
    tokenizer.save_pretrained(tmp_path)
    saved = AutoTokenizer.from_pretrained(tmp_path)
    long = "river stone " * 20
    data = tokenized([chat_pair([long], "stone", "window")], tokenizer, data_format="chat")
    expected = saved.apply_chat_template(messages(long, "stone"), tokenize=True, truncation=True, return_dict=True)
    assert data.sequence(data.better[0]).tolist() == expected["input_ids"]


# ---- refusals ----


def test_a_wrong_format_is_refused_with_what_to_set(tokenizer_of):
    with pytest.raises(InputError, match=r"dataset 'train' has strings \(text format\), but .* 'chat'"):
        tokenized([pair("a", "b", "c")], tokenizer_of(data_format="chat"), data_format="chat")
    with pytest.raises(InputError, match=r"has message lists \(chat format\), but .* 'text'"):
        tokenized([chat_pair(["a"], "b", "c")], tokenizer_of())


@pytest.mark.parametrize(
    "row, message",
    [
        ({"prompt": "a", "chosen": None, "rejected": "c"}, r"row 2: `chosen` is null; it must be a string"),
        ({"prompt": "a", "chosen": "b", "rejected": 3}, r"row 2: `rejected` is a int; it must be a string"),
        ({"prompt": "a", "completions": ["b", None], "scores": [1.0, 2.0]}, r"row 2: `completions\[1\]` is null"),
    ],
)
def test_what_is_no_text_is_refused_by_row_and_column(row, message):
    ranked = "completions" in row
    with pytest.raises(InputError, match=message):
        as_row(row, ranked, RowPlace("data", "row", 2))


def test_other_columns_are_refused_by_name(tokenizer_of):
    with pytest.raises(InputError, match=r"dataset 'mine' has the columns \['text'\]"):
        tokenized([{"text": "a"}], tokenizer_of(), name="mine")


def test_no_rows_give_no_sequences(tokenizer_of):
    empty = Dataset.from_dict({"prompt": [], "chosen": [], "rejected": []})
    data = tokenize_preferences(empty, tokenizer_of(), max_length=16)
    assert (len(data), data.num_sequences) == (0, 0)
    assert data.ids.dtype == np.int32
