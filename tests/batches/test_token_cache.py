"""Token ids are cached between runs, and never mistaken for those of other rows, tokenizers or options."""

from __future__ import annotations

import dataclasses

import datasets
import numpy as np
import pytest
from datasets import Dataset
from transformers import AutoConfig

import rm_toolkit.batches.encoding
from rm_toolkit.batches import token_cache
from rm_toolkit.batches.tokenization import tokenize_preferences
from rm_toolkit.models.tokenizer import load_tokenizer, prepare_tokenizer


@pytest.fixture
def tokenize(base_model, tmp_path, monkeypatch):
    monkeypatch.setattr(token_cache, "MIN_ROWS", 1)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path))

    def run(rows, pooling_type="last", **options):
        tokenizer = load_tokenizer(base_model())
        config = AutoConfig.from_pretrained(base_model())
        prepare_tokenizer(tokenizer, config, max_length=64, pooling_type=pooling_type)
        return tokenize_preferences(
            Dataset.from_list(rows), tokenizer, **{"max_length": 64, "show_progress": False, **options}
        )

    return run


def files(tmp_path):
    return sorted((tmp_path / "rm_toolkit").glob("*"))


def test_the_second_run_reads_what_the_first_one_kept(tokenize, rows, tmp_path, monkeypatch):
    first = tokenize(rows.ranked(5), lm_target_eos=True)
    assert len(files(tmp_path)) == 1
    monkeypatch.setattr("rm_toolkit.batches.tokenization.Encoder", None)
    second = tokenize(rows.ranked(5), lm_target_eos=True, name="again")
    assert second.name == "again"
    for field in dataclasses.fields(first):
        one, other = getattr(first, field.name), getattr(second, field.name)
        if isinstance(one, np.ndarray):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
        elif field.name != "name":
            assert one == other


@pytest.mark.parametrize("change", [{"max_length": 20}, {"pooling_type": "eos"}, {"lm_score_threshold": 0.1}])
def test_other_options_are_another_file(tokenize, rows, tmp_path, change):
    tokenize(rows.ranked(5))
    tokenize(rows.ranked(5), **change)
    assert len(files(tmp_path)) == 2


def test_other_rows_are_another_file(tokenize, rows, tmp_path):
    tokenize(rows.ranked(5))
    tokenize(rows.ranked(5, seed=1))
    assert len(files(tmp_path)) == 2


def test_a_new_version_keeps_the_ids_and_a_new_rule_does_not(tokenize, rows, tmp_path, monkeypatch):
    tokenize(rows.ranked(5))
    monkeypatch.setattr("rm_toolkit.__version__", "9.9")
    tokenize(rows.ranked(5))
    assert len(files(tmp_path)) == 1
    monkeypatch.setattr(token_cache, "RULE", token_cache.RULE + 1)
    tokenize(rows.ranked(5))
    assert len(files(tmp_path)) == 2


def test_a_file_of_an_older_rule_is_never_read(tokenize, rows, tmp_path):
    """Up to 0.2.1, file names did not contain the rule. Such a file is ignored, whatever hash its name ends with."""
    expected = tokenize(rows.ranked(5)).ids.tolist()
    kept = files(tmp_path)[0]
    assert kept.name.startswith(f"tokens-rule{token_cache.RULE}-")
    tokenize(rows.ranked(5, seed=1))
    other = next(path for path in files(tmp_path) if path != kept)
    digest = kept.stem.rpartition("-")[2]
    for name in (f"tokens-{digest}.npz", f"tokens-rule{token_cache.RULE - 1}-{digest}.npz"):
        kept.with_name(name).write_bytes(other.read_bytes())
    kept.unlink()
    assert tokenize(rows.ranked(5)).ids.tolist() == expected
    assert kept.exists()


def test_a_broken_file_is_made_again(tokenize, rows, tmp_path):
    expected = tokenize(rows.ranked(5))
    files(tmp_path)[0].write_bytes(b"PK no zip")
    assert tokenize(rows.ranked(5)).ids.tolist() == expected.ids.tolist()


def test_small_sets_and_disabled_caching_keep_nothing(tokenize, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(token_cache, "MIN_ROWS", 100)
    tokenize(rows.ranked(5))
    monkeypatch.setattr(token_cache, "MIN_ROWS", 1)
    monkeypatch.setattr(datasets, "is_caching_enabled", lambda: False)
    tokenize(rows.ranked(5))
    assert files(tmp_path) == []


def test_each_distinct_text_is_encoded_once_and_without_offsets(tokenize, rows, monkeypatch):
    seen = []
    original = rm_toolkit.batches.encoding.render_whole
    monkeypatch.setattr(
        rm_toolkit.batches.encoding, "render_whole", lambda batch, *rest: seen.extend(batch) or original(batch, *rest)
    )
    pairs = rows.pairs(3)
    fast = tokenize(pairs * 2, find_completions=False)
    assert len(seen) == 6
    assert fast.ids.tolist() == tokenize(pairs, find_completions=True).ids.tolist()
    assert not fast.completion_start.any()
