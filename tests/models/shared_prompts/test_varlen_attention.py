"""Attention over packed sequences: what each sees, which kernel computes it, and that all layers share the packing."""

from __future__ import annotations

import logging
import re
import sys
import types

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from rm_toolkit.batches.prefixes import flat_row
from rm_toolkit.batches.shared_layout import SharedLayout
from rm_toolkit.models.shared_prompts import varlen_attention
from rm_toolkit.models.shared_prompts.attention import enable_shared_attention, noted_kernels, shared_attention
from rm_toolkit.models.shared_prompts.last_layer import trim_last_layer
from rm_toolkit.models.shared_prompts.varlen_attention import VarlenKernel, installed_kernel, kernel_for
from rm_toolkit.scoring.scorer import RewardScorer
from rm_toolkit.training.stages import describe_engine

from .conftest import WINDOWED, varlen_by_sdpa


GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def test_each_segment_has_the_keys_of_its_prefix_and_its_own():
    # Tokens 0 to 2 are a prompt, 3 and 4 one response, 5 another; 6 and 7 are a separate text.
    layout = SharedLayout(np.array([[0, 3, 0, 0], [3, 5, 0, 3], [5, 6, 0, 3], [6, 8, 0, 0]]))
    packed = layout.packed(torch.device("cpu"))
    assert packed.query_ends.tolist() == [0, 3, 5, 6, 8]
    assert packed.key_ends.tolist() == [0, 3, 8, 12, 14]
    assert packed.keys.tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 0, 1, 2, 5, 6, 7]
    assert (packed.most_queries, packed.most_keys) == (3, 5)
    assert {packed.query_ends.dtype, packed.key_ends.dtype, packed.keys.dtype} == {torch.int32}


@pytest.mark.parametrize(
    ("model_type", "grouped"),
    [("llama", False), *((model_type, True) for model_type in ("llama", "qwen3", *WINDOWED))],
)
def test_models_compute_shared_rows_as_separate_ones(tiny, both_ways, model_type, grouped, varlen_on_cpu):
    options = []

    def watched(*args, **kwargs):
        if len(args[0]) > 2:  # not in the check whether it runs
            options.append(kwargs)
        return varlen_by_sdpa(*args, **kwargs)

    varlen_on_cpu(watched, grouped)
    (hidden, grads), (shared_hidden, shared_grads) = both_ways(tiny(model_type, **WINDOWED.get(model_type, {})))
    torch.testing.assert_close(shared_hidden, hidden, atol=1e-4, rtol=1e-4)
    for found, expected in zip(shared_grads, grads, strict=True):
        assert (found - expected).norm() <= 1e-4 * expected.norm()
    assert all(("enable_gqa" in kwargs) == grouped for kwargs in options)
    # A window of 7 tokens is the token itself and 6 before it.
    windows = {kwargs["window_size"] for kwargs in options}
    everywhere = {"llama": {(-1, 0)}, "qwen3": {(-1, 0)}, "mistral": {(6, 0)}, "phi3": {(6, 0)}}
    assert windows == everywhere.get(model_type, {(-1, 0), (6, 0)})


def test_the_row_is_packed_once_for_all_layers(tiny, both_ways, varlen_on_cpu, monkeypatch):
    varlen_on_cpu()
    calls = []
    original = SharedLayout._packed
    monkeypatch.setattr(SharedLayout, "_packed", lambda *args: calls.append(1) or original(*args))
    both_ways(tiny("llama"))
    assert len(calls) == 1


def test_gradients_of_a_prompt_are_added_in_32_bits(varlen_on_cpu):
    """400 responses of one token each add to the prompt's gradients: in bf16, 256 + 1 is 256."""
    varlen_on_cpu()
    count = 400
    layout = SharedLayout(np.array([[0, 1, 0, 0], *([k + 1, k + 2, 0, 1] for k in range(count))]))
    query, key = (torch.zeros(1, 1, count + 1, 8, dtype=torch.bfloat16) for _ in range(2))
    value = torch.zeros_like(key, requires_grad=True)
    shared_attention(query, key, value, layout).float().sum().backward()
    assert value.grad[0, 0, 0, 0].item() == pytest.approx(1 + count / 2, rel=2**-8)


# ---- which kernel ----


@pytest.fixture
def torch_with(monkeypatch):
    """`torch_with(function)`: a torch whose `torch.nn.attention.varlen` has it as `varlen_attn`; `None`: no module."""

    def install(function):
        module = None if function is None else types.SimpleNamespace(varlen_attn=function)
        monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", module)
        return installed_kernel.__wrapped__("cuda")

    return install


def test_the_installed_torch_is_asked_what_its_kernel_takes(torch_with):
    def of_2_13(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size, enable_gqa): ...
    def of_2_11(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size): ...
    def of_2_10(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal): ...

    assert torch_with(of_2_13) == VarlenKernel(of_2_13, grouped=True)
    assert torch_with(of_2_11) == VarlenKernel(of_2_11, grouped=False)
    assert torch_with(of_2_10) is None
    assert torch_with(None) is None
    assert installed_kernel("cpu") is None


@pytest.mark.parametrize(
    ("dtype", "head_dim", "value_dim", "taken"),
    [
        (torch.bfloat16, 64, 64, True),
        (torch.float16, 256, 256, True),
        (torch.float32, 64, 64, False),
        (torch.bfloat16, 20, 20, False),
        (torch.bfloat16, 208, 208, False),
        (torch.bfloat16, 264, 264, False),
        (torch.bfloat16, 24, 16, False),
    ],
)
def test_heads_and_types_that_it_refuses(monkeypatch, dtype, head_dim, value_dim, taken):
    monkeypatch.setattr(varlen_attention, "installed_kernel", lambda device_type: VarlenKernel(varlen_by_sdpa, True))
    assert (kernel_for("cpu", dtype, head_dim, value_dim) is not None) == taken


@pytest.mark.parametrize("window", [None, 8])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_the_installed_kernel_takes_these_arguments(monkeypatch, key_heads, window):
    """Forward and backward of the real kernel on fake tensors, as a CPU cannot run it."""
    kernel = installed_kernel("cuda")
    if kernel is None:
        pytest.skip("this torch has no varlen_attn with windows")
    monkeypatch.setattr(varlen_attention, "installed_kernel", lambda device_type: kernel)
    layout = flat_row([np.append(np.arange(50), np.full(n, 100 + n)) for n in (3, 40, 90)]).layout
    with FakeTensorMode(allow_non_fake_inputs=True), noted_kernels() as kernels:
        query, key, value = (
            torch.randn(1, layout.num_tokens, heads, 64, dtype=torch.bfloat16, requires_grad=True)
            for heads in (4, key_heads, key_heads)
        )
        output = shared_attention(*(tensor.transpose(1, 2) for tensor in (query, key, value)), layout, 0.125, window)
        grads = torch.autograd.grad((output * torch.ones_like(output)).sum(), (query, key, value))
    assert kernels == {"FlashAttention over packed sequences in bfloat16"}
    assert output.shape == (1, 4, layout.num_tokens, 64)
    assert [grad.shape for grad in grads] == [query.shape, key.shape, value.shape]


def test_a_device_on_which_it_fails_computes_as_before(varlen_on_cpu):
    def too_old(*args, **options):
        raise RuntimeError("FlashAttention only supports Ampere GPUs or newer.")

    varlen_on_cpu(too_old)
    layout = flat_row([np.arange(40), np.arange(41)]).layout
    tensors = [torch.randn(1, 2, layout.num_tokens, 8) for _ in range(3)]
    with noted_kernels() as kernels:
        output = shared_attention(*tensors, layout)
    assert kernels == {"blocks of prompts and responses in float32"}
    expected = F.scaled_dot_product_attention(*tensors, attn_mask=layout.dense_mask())
    torch.testing.assert_close(output, expected)


def test_in_32_bits_the_existing_path_computes(monkeypatch):
    monkeypatch.setattr(varlen_attention, "installed_kernel", lambda device_type: VarlenKernel(varlen_by_sdpa, True))
    layout = flat_row([np.arange(40), np.arange(41)]).layout
    tensors = [torch.randn(1, 2, layout.num_tokens, 8) for _ in range(3)]
    with noted_kernels() as kernels:
        shared_attention(*tensors, layout)
        shared_attention(*(tensor.half() for tensor in tensors), layout)
    assert kernels == {
        "blocks of prompts and responses in float32",
        "FlashAttention over packed sequences in float16",
    }


# ---- which models run it ----


@pytest.fixture
def preference_rows(rows):
    """Ranked rows whose prompts are long enough to be shared."""
    long = "Mind the copper lantern and answer in the tone of the harbour market at noon. "
    return [{**row, "prompt": f"## Human:\n{long}{row['prompt']}"} for row in rows.ranked(8)]


def test_training_and_evaluation_in_bf16_run_it_and_the_log_says_so(
    make_trainer, preference_rows, varlen_on_cpu, caplog, monkeypatch
):
    varlen_on_cpu()
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    caplog.set_level(logging.INFO)
    trainer = make_trainer(preference_rows, max_length=128, bf16=True, max_steps=1)
    (line,) = [record.getMessage() for record in caplog.records if "batch_layout" in record.getMessage()]
    assert re.fullmatch(
        r"batch_layout: shared \(about 0\.\d\d of the cost of padded rows\), "
        r"attention by FlashAttention over packed sequences in bfloat16",
        line,
    )
    assert "; layout shared, attention by FlashAttention over packed sequences in bfloat16; " in describe_engine(
        trainer
    )
    with noted_kernels() as kernels:
        trainer.train()
    assert kernels == {"FlashAttention over packed sequences in bfloat16"}
    with noted_kernels() as kernels:
        rewards = trainer.compute_rewards(trainer.train_dataset)
    assert kernels == {"FlashAttention over packed sequences in bfloat16"}
    trainer.batch_layout = "plain"
    expected = trainer.compute_rewards(trainer.train_dataset)
    assert np.abs(rewards - expected).max() < 0.02 * np.ptp(expected)


def test_scoring_with_bf16_weights_runs_it(reward_model, preference_rows, varlen_on_cpu):
    varlen_on_cpu()
    scorer = RewardScorer(reward_model(), device="cpu", dtype=torch.bfloat16)
    rows = [row["prompt"] for row in preference_rows], [row["completions"] for row in preference_rows]
    with noted_kernels() as kernels:
        rewards = np.concatenate(scorer.score(*rows))
    # Calls of the trial are not counted; it collects its own.
    assert kernels == {"FlashAttention over packed sequences in bfloat16"}
    expected = np.concatenate(RewardScorer(reward_model(), device="cpu").score(*rows))
    assert np.abs(rewards - expected).max() < 0.05 * np.ptp(expected)


@pytest.mark.slow
def test_compiled_layers_are_not_compiled_anew_for_other_layouts(tiny, varlen_on_cpu):
    varlen_on_cpu()
    model = tiny("llama")
    enable_shared_attention(model.config)
    trim_last_layer(model)
    graphs = []
    batches = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        start = rng.integers(3, 90, 20 + seed)
        batches.append(flat_row([np.append(start, rng.integers(3, 90, 4 + 5 * k)) for k in range(3 + seed % 2)]))

    @torch.no_grad()
    def compute(row):
        row.layout.needed = torch.arange(0, len(row.input_ids), 3)
        inputs = {"input_ids": row.input_ids, "position_ids": row.position_ids}
        inputs = {name: torch.from_numpy(values)[None] for name, values in inputs.items()}
        mask = torch.ones(1, 1, 1, 1, dtype=torch.bool)
        return model(**inputs, attention_mask=mask, shared_layout=row.layout, use_cache=False).last_hidden_state

    expected = [compute(row) for row in batches]
    for layer in model.layers:
        layer.compile(dynamic=True, backend=lambda graph, inputs: graphs.append(1) or graph)
    counts = []
    for row, hidden in zip(batches, expected):
        assert torch.equal(compute(row), hidden)
        counts.append(len(graphs))
    assert counts[0] == counts[-1] > 0


# ---- on a GPU ----


@pytest.fixture(scope="module")
def problem():
    """Prompts and responses shorter and longer than the kernel's blocks; queries with 4 heads of 64, keys with 2."""
    rng = np.random.default_rng(0)
    starts = [rng.integers(0, 99, length) for length in (20, 200, 700)]
    pairs = ((0, 1), (0, 150), (1, 7), (1, 2), (1, 70), (2, 300), (2, 1))
    texts = [np.concatenate([starts[k], rng.integers(0, 99, n)]) for k, n in pairs]
    layout = flat_row([*texts, rng.integers(0, 99, 11)]).layout
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, heads, layout.num_tokens, 64) for heads in (4, 2, 2, 4)]
    return layout, [torch.randn(shape, generator=generator) for shape in shapes]


def on_gpu(problem, dtype, window):
    layout, (*tensors, direction) = problem
    tensors = [tensor.to("cuda", dtype).requires_grad_() for tensor in tensors]
    output = shared_attention(*tensors, SharedLayout(layout.segments), None, window)
    grads = torch.autograd.grad((output * direction.to("cuda", dtype)).sum(), tensors)
    return output.detach(), *grads


@pytest.mark.parametrize("window", [None, 1, 8, 64, 300])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kernel", [pytest.param("kernel", marks=GPU)])
def test_the_kernel_equals_a_dense_mask(problem, dtype, window, kernel):
    layout, (*tensors, direction) = problem
    rounded = [tensor.to(dtype).double().requires_grad_() for tensor in tensors]
    repeated = [tensor.repeat_interleave(2, dim=1) for tensor in rounded[1:]]
    expected = F.scaled_dot_product_attention(rounded[0], *repeated, attn_mask=layout.dense_mask(window))
    expected = expected, *torch.autograd.grad((expected * direction.to(dtype).double()).sum(), rounded)
    with noted_kernels() as kernels:
        found = on_gpu(problem, dtype, window)
    assert kernels == {f"FlashAttention over packed sequences in {str(dtype).removeprefix('torch.')}"}
    for one, other in zip(found, expected):
        assert (one.double().cpu() - other).norm() <= 2e-2 * other.norm()


@pytest.mark.parametrize("kernel", [pytest.param("kernel", marks=GPU)])
def test_on_a_gpu_it_is_bit_for_bit_where_determinism_is_asked_for(problem, kernel, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    try:
        first, second = on_gpu(problem, torch.bfloat16, None), on_gpu(problem, torch.bfloat16, None)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(one.equal(other) for one, other in zip(first, second))


@pytest.mark.parametrize("kernel", [pytest.param("kernel", marks=GPU)])
def test_no_layer_waits_for_the_gpu(problem, kernel):
    layout, (*tensors, _) = problem
    tensors = [tensor.to("cuda", torch.bfloat16) for tensor in tensors]
    layout = SharedLayout(layout.segments)
    shared_attention(*tensors, layout)  # finds the kernel, and packs the row
    torch.cuda.set_sync_debug_mode("error")
    try:
        whole, windowed = shared_attention(*tensors, layout), shared_attention(*tensors, layout, None, 8)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not whole.equal(windowed)
