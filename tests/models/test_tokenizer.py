"""The ids that a prepared tokenizer gives, and that the saved one gives the same."""

from __future__ import annotations

import pytest
from transformers import AutoConfig, AutoTokenizer

from rm_toolkit.errors import InputError
from rm_toolkit.models.tokenizer import (
    PAD_TOKEN,
    adds_eos,
    check_fits_model,
    end_of_turn_ids,
    load_tokenizer,
    prepare_tokenizer,
)


TEXT = "## Human:\nThe river.\n\n## Assistant:\nA  stone, and\n a lantern."


def prepared(folder, max_length=12, **options):
    tokenizer, config = load_tokenizer(folder), AutoConfig.from_pretrained(folder)
    return prepare_tokenizer(tokenizer, config, max_length=max_length, **options), config


@pytest.fixture(params=["llama", "qwen3"])
def folder(request, base_model):
    return base_model(request.param)


# ---- padding ----


def test_a_missing_pad_token_is_added_and_written_to_the_config(base_model):
    tokenizer, config = prepared(base_model("llama"))
    assert tokenizer.pad_token == PAD_TOKEN
    assert config.pad_token_id == tokenizer.pad_token_id == len(tokenizer) - 1
    assert tokenizer.pad_token_id not in (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.unk_token_id)


def test_a_pad_token_of_its_own_stays(base_model):
    tokenizer, config = prepared(base_model("qwen3"))
    assert tokenizer.pad_token == "<|endoftext|>"
    assert config.pad_token_id == tokenizer.pad_token_id


@pytest.mark.parametrize("ending", ["eos", "template", "model"])
def test_a_pad_token_that_ends_texts_is_replaced(base_model, ending):
    tokenizer = load_tokenizer(base_model("qwen3"))
    config = AutoConfig.from_pretrained(base_model("qwen3"))
    if ending == "eos":  # TRL's default for Llama 3
        tokenizer.pad_token = tokenizer.eos_token
    elif ending == "template":  # <|im_end|> ends a turn, while EOS is something else
        tokenizer.eos_token, tokenizer.pad_token = "<|endoftext|>", "<|im_end|>"
        config.eos_token_id = None
    else:  # generation stops at any of several tokens of the model's config
        config.eos_token_id = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    prepare_tokenizer(tokenizer, config, max_length=12)
    assert tokenizer.pad_token == PAD_TOKEN
    assert tokenizer.pad_token_id not in end_of_turn_ids(tokenizer, config)
    assert config.pad_token_id == tokenizer.pad_token_id


def test_the_pad_token_survives_saving(base_model, tmp_path):
    tokenizer, config = prepared(base_model("llama"))
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.pad_token_id == config.pad_token_id
    assert len(again) == len(tokenizer)


# ---- BOS and EOS ----


@pytest.mark.parametrize("pooling_type", ["last", "eos", "average"])
def test_llama_texts_begin_with_one_bos_and_end_in_eos_only_for_eos_pooling(base_model, tmp_path, pooling_type):
    tokenizer, _ = prepared(base_model("llama"), max_length=64, pooling_type=pooling_type)
    tokenizer.save_pretrained(tmp_path)
    for each in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        ids = each(TEXT)["input_ids"]
        assert ids[0] == each.bos_token_id and ids.count(each.bos_token_id) == 1
        assert ids.count(each.eos_token_id) == (pooling_type == "eos")
        assert (ids[-1] == each.eos_token_id) == (pooling_type == "eos") == adds_eos(each)
        assert each.decode(ids, skip_special_tokens=True) == TEXT


def test_eos_is_appended_where_it_is_pooled(base_model):
    tokenizer, _ = prepared(base_model("llama"), max_length=12, pooling_type="average", pools_eos=True)
    ids = tokenizer(TEXT, truncation=True)["input_ids"]
    assert len(ids) == 12 and (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)


@pytest.mark.parametrize("pooling_type", ["last", "eos"])
def test_a_tokenizer_without_bos_gets_none(base_model, tmp_path, pooling_type):
    tokenizer, _ = prepared(base_model("qwen3"), max_length=64, pooling_type=pooling_type)
    plain = load_tokenizer(base_model("qwen3"))(TEXT)["input_ids"]
    tokenizer.save_pretrained(tmp_path)
    end = [tokenizer.eos_token_id] if pooling_type == "eos" else []
    for each in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        assert each(TEXT)["input_ids"] == plain + end


def test_preparing_a_saved_tokenizer_again_changes_nothing_or_follows_the_new_pooling(folder, tmp_path):
    """Customized fine-tuning prepares the tokenizer that general fine-tuning saved."""
    first, _ = prepared(folder, max_length=64, pooling_type="eos")
    first.save_pretrained(tmp_path / "eos")
    config = AutoConfig.from_pretrained(folder)
    again = prepare_tokenizer(load_tokenizer(str(tmp_path / "eos")), config, max_length=64, pooling_type="eos")
    assert again(TEXT)["input_ids"] == first(TEXT)["input_ids"]
    assert len(again) == len(first)
    again.save_pretrained(tmp_path / "again")
    assert load_tokenizer(str(tmp_path / "again"))(TEXT)["input_ids"] == first(TEXT)["input_ids"]

    without = prepare_tokenizer(load_tokenizer(str(tmp_path / "eos")), config, max_length=64, pooling_type="last")
    assert without(TEXT)["input_ids"] == first(TEXT)["input_ids"][:-1]
    without.save_pretrained(tmp_path / "last")
    assert load_tokenizer(str(tmp_path / "last"))(TEXT)["input_ids"] == first(TEXT)["input_ids"][:-1]


def test_eos_pooling_needs_an_eos_token(base_model):
    tokenizer = load_tokenizer(base_model("qwen3"))
    tokenizer.eos_token = None
    config = AutoConfig.from_pretrained(base_model("qwen3"))
    with pytest.raises(InputError, match="`pooling_type` is 'eos', but the tokenizer has no `eos_token`"):
        prepare_tokenizer(tokenizer, config, max_length=12, pooling_type="eos")


# ---- truncation ----


@pytest.mark.parametrize("pooling_type", ["last", "eos"])
def test_truncation_keeps_bos_the_last_tokens_and_eos(folder, tmp_path, pooling_type):
    tokenizer, _ = prepared(folder, max_length=12, pooling_type=pooling_type)
    whole = tokenizer(TEXT)["input_ids"]
    assert len(whole) > 20
    bos = [whole[0]] if whole[0] == tokenizer.bos_token_id else []
    expected = bos + whole[-(12 - len(bos)) :]
    tokenizer.save_pretrained(tmp_path)
    for each in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        assert each(TEXT, truncation=True)["input_ids"] == expected


def test_a_saved_tokenizer_pads_right_and_cuts_left_at_the_model_length(folder, tmp_path):
    prepared(folder, max_length=12)[0].save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert (again.truncation_side, again.padding_side, again.model_max_length) == ("left", "right", 12)


# ---- chat ----

CHAT = [{"role": "user", "content": "The river?"}, {"role": "assistant", "content": "A stone."}]


def test_chat_keeps_the_template_ids_as_they_are(base_model, tmp_path):
    plain = load_tokenizer(base_model("qwen3"))
    expected = plain.apply_chat_template(CHAT, tokenize=True, return_dict=True)["input_ids"]
    for pooling_type in ("last", "eos"):
        tokenizer, _ = prepared(base_model("qwen3"), max_length=99, pooling_type=pooling_type, data_format="chat")
        tokenizer.save_pretrained(tmp_path / pooling_type)
        for each in (tokenizer, AutoTokenizer.from_pretrained(tmp_path / pooling_type)):
            assert each.apply_chat_template(CHAT, tokenize=True, return_dict=True)["input_ids"] == expected


def test_chat_without_a_template_gets_chatml_and_its_tokens(base_model, tmp_path):
    tokenizer, config = prepared(base_model("llama"), max_length=99, data_format="chat")
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    ids = again.apply_chat_template(CHAT, tokenize=True, return_dict=True)["input_ids"]
    end = again.convert_tokens_to_ids("<|im_end|>")
    assert ids.count(end) == 2
    assert ids == tokenizer.apply_chat_template(CHAT, tokenize=True, return_dict=True)["input_ids"]
    assert config.pad_token_id not in ids


# ---- refusals ----


def test_a_tokenizer_of_another_model_is_refused(base_model):
    tokenizer, config = load_tokenizer(base_model("llama")), AutoConfig.from_pretrained(base_model("llama"))
    config.vocab_size = 100
    with pytest.raises(InputError, match=r"the tokenizer of 'base' has \d+ tokens, but the model's embedding has 100"):
        check_fits_model(tokenizer, config, "base")
    config.vocab_size = len(tokenizer) - 3  # a few added tokens are usual
    check_fits_model(tokenizer, config, "base")


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no tokenizer could be loaded from .*--tokenizer_name_or_path"):
        load_tokenizer(str(tmp_path))
