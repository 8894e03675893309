"""Sliding windows in the shared layout: a token sees as much of its own sequence as in a separate row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoTokenizer, MistralConfig, MistralForSequenceClassification

from rm_toolkit.batches.prefixes import flat_row
from rm_toolkit.batches.shared_layout import SharedLayout
from rm_toolkit.models.shared_prompts.attention import (
    UnsupportedAttentionError,
    sdpa_shared_attention,
    shared_attention,
)
from rm_toolkit.models.shared_prompts.exactness import sharing_problem
from rm_toolkit.models.shared_prompts.flex_attention import flex_shared_attention, shared_block_mask
from rm_toolkit.models.shared_prompts.segment_attention import make_blocks

from .conftest import SMALL, WINDOWED


def test_a_window_counts_the_token_itself_and_runs_over_the_end_of_the_prompt():
    # Tokens 0 to 2 are a prompt, 3 and 4 one response, 5 and 6 another: the sequences 0 1 2 3 4 and 0 1 2 5 6.
    layout = SharedLayout(np.array([[0, 3, 0, 0], [3, 5, 0, 3], [5, 7, 0, 3]]))
    seen = [torch.nonzero(row).flatten().tolist() for row in layout.dense_mask(3)]
    assert seen == [[0], [0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [1, 2, 5], [2, 5, 6]]
    assert layout.dense_mask(5).equal(layout.dense_mask())
    assert layout.dense_mask(1).equal(torch.eye(7, dtype=torch.bool))


def make_problem(prompts, responses):
    """A layout of responses, given as (number of the prompt, length), with queries, keys, values and a direction."""
    rng = np.random.default_rng(0)
    starts = [rng.integers(0, 99, length) for length in prompts]
    texts = [np.concatenate([starts[k], rng.integers(0, 99, n)]) for k, n in responses]
    layout = flat_row([*texts, rng.integers(0, 99, 11)]).layout
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, heads, layout.num_tokens, 8) for heads in (4, 2, 2, 4)]
    *tensors, direction = (torch.randn(shape, generator=generator) for shape in shapes)
    return layout, [tensor.requires_grad_() for tensor in tensors], direction


@pytest.fixture(scope="module")
def problem():
    """Prompts and responses shorter and longer than the windows of the tests."""
    return make_problem((20, 45), ((0, 3), (0, 150), (1, 7), (1, 2), (1, 70)))


def by_dense_mask(layout, tensors, direction, window):
    query, *others = tensors
    repeated = [tensor.repeat_interleave(2, dim=1) for tensor in others]
    output = F.scaled_dot_product_attention(query, *repeated, attn_mask=layout.dense_mask(window), scale=0.3)
    return output.detach(), torch.autograd.grad((output * direction).sum(), tensors)


def assert_same(output, layout, tensors, direction, window):
    expected, grads = by_dense_mask(layout, tensors, direction, window)
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)
    for found, one in zip(torch.autograd.grad((output * direction).sum(), tensors), grads):
        torch.testing.assert_close(found, one, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("window", [1, 2, 21, 46, 140, 5000])
@pytest.mark.parametrize("path", ["blocks", "sdpa", "varlen"])
def test_attention_and_its_gradients_equal_those_of_a_dense_mask(problem, window, path, varlen_on_cpu):
    layout, tensors, direction = problem
    if path == "varlen":
        varlen_on_cpu()
    if path == "sdpa":
        query, *others = tensors
        repeated = [tensor.repeat_interleave(2, dim=1) for tensor in others]
        output = sdpa_shared_attention(query, *repeated, layout, 0.3, window)
    else:
        output = shared_attention(*tensors, layout, 0.3, window)
    assert_same(output, layout, tensors, direction, window)


def test_windows_longer_than_what_the_kernel_of_a_cpu_computes_at_once():
    layout, tensors, direction = make_problem((300,), ((0, 700), (0, 40)))
    assert_same(shared_attention(*tensors, layout, 0.3, 600), layout, tensors, direction, 600)


@pytest.mark.parametrize("window", [7, 9])
def test_a_window_that_is_one_off_differs(problem, window):
    layout, tensors, direction = problem
    with pytest.raises(AssertionError):
        assert_same(shared_attention(*tensors, layout, 0.3, window), layout, tensors, direction, 8)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_the_block_mask_of_flex_attention_gives_the_same():
    layout = flat_row([np.append(np.arange(50), np.full(n, 100 + n)) for n in (3, 40, 90)]).layout
    query, *others = (torch.randn(1, heads, layout.num_tokens, 8) for heads in (2, 1, 1))
    repeated = [tensor.repeat_interleave(2, dim=1) for tensor in others]
    expected = F.scaled_dot_product_attention(query, *repeated, attn_mask=layout.dense_mask(30))
    output = flex_shared_attention(query, *others, layout, None, 30)
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)


def test_blocks_out_of_the_window_are_skipped():
    start = np.arange(512)
    layout = flat_row([np.append(start, np.full(256, 1000 + k)) for k in range(2)]).layout
    cpu = torch.device("cpu")
    blocks = {window: shared_block_mask(layout, cpu, window) for window in (None, 128)}
    counts = {window: int((mask.kv_num_blocks + mask.full_kv_num_blocks).sum()) for window, mask in blocks.items()}
    # Four blocks of the prompt, two of each response: each sees itself and, except for the first, the one before it.
    assert counts == {None: 10 + 2 * (5 + 6), 128: 1 + 3 * 2 + 2 * (2 + 2)}


def test_a_long_response_costs_its_window_and_not_its_square():
    layout = SharedLayout(np.array([[0, 10_000, 0, 0], [10_000, 20_000, 0, 10_000]]))
    blocks = make_blocks(layout, 200, torch.float32)
    products = sum(
        (block.queries.stop - block.queries.start) * (block.keys.stop - block.keys.start)
        for block in [*blocks.own, *blocks.prefix]
    )
    assert products < 20_000 * 2 * 200


def test_a_window_below_one_is_refused(problem):
    layout, tensors, _ = problem
    with pytest.raises(UnsupportedAttentionError, match=r"sliding_window.*-1"):
        shared_attention(*tensors, layout, None, -1)


@pytest.mark.parametrize("model_type", WINDOWED)
def test_models_compute_shared_rows_as_separate_ones(tiny, both_ways, model_type):
    (hidden, grads), (shared_hidden, shared_grads) = both_ways(tiny(model_type, **WINDOWED[model_type]))
    torch.testing.assert_close(shared_hidden, hidden, atol=1e-4, rtol=1e-4)
    for found, expected in zip(shared_grads, grads, strict=True):
        assert (found - expected).norm() <= 1e-4 * expected.norm()


@pytest.mark.parametrize("model_type", WINDOWED)
def test_the_windows_of_these_models_matter(tiny, both_ways, model_type):
    """If they did not, the test above would pass without any window."""
    (hidden, _), _ = both_ways(tiny(model_type, **WINDOWED[model_type]))
    (without, _), _ = both_ways(tiny(model_type, **{**WINDOWED[model_type], "sliding_window": 500}))
    assert (hidden - without).norm() > 0.01 * hidden.norm()


@pytest.mark.parametrize("model_type", WINDOWED)
def test_the_trial_finds_them_exact(tiny, model_type):
    assert sharing_problem(tiny(model_type, **WINDOWED[model_type]), 512) is None


def test_auto_shares_prompts_of_a_model_with_windows_and_the_step_is_the_same(
    make_trainer, base_model, rows, step_gradients
):
    long = "Mind the copper lantern and answer in the tone of the harbour market at noon. "
    ranked = [{**row, "prompt": f"## Human:\n{long}{row['prompt']}"} for row in rows.ranked(5)]
    tokenizer = AutoTokenizer.from_pretrained(base_model())
    windowed = {**SMALL, **WINDOWED["mistral"], "sliding_window": 20, "vocab_size": len(tokenizer), "num_labels": 1}
    found = {}
    for layout in ("plain", "auto"):
        torch.manual_seed(0)
        model = MistralForSequenceClassification(MistralConfig(**windowed, initializer_range=0.2))
        options = {"max_length": 128, "batch_layout": layout, "gradient_checkpointing": layout == "auto"}
        trainer = make_trainer(ranked, model, processing_class=tokenizer, per_device_train_batch_size=16, **options)
        found[layout] = step_gradients(trainer)
    assert trainer.batch_layout == "shared"
    assert found["auto"][0] == pytest.approx(found["plain"][0], abs=1e-5)
    for name, expected in found["plain"][1].items():
        assert (found["auto"][1][name] - expected).norm() <= 1e-4 * expected.norm().clamp(min=1e-6), name
