"""Tiny models of several kinds, texts that share prefixes, and both ways to compute them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PreTrainedModel

from rm_toolkit.batches.prefixes import flat_row
from rm_toolkit.models.shared_prompts import varlen_attention
from rm_toolkit.models.shared_prompts.attention import enable_shared_attention
from rm_toolkit.models.shared_prompts.last_layer import trim_last_layer
from rm_toolkit.models.shared_prompts.varlen_attention import VarlenKernel


SMALL = {
    "vocab_size": 90,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# For each kind of model, config values that give it windows of 7 tokens in all layers or in some.
WINDOWED = {
    "mistral": {"sliding_window": 7},
    "phi3": {"sliding_window": 7},
    "qwen2": {"sliding_window": 7, "use_sliding_window": True, "max_window_layers": 1},
    "gemma3_text": {
        "sliding_window": 7,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "query_pre_attn_scalar": 8,
    },
    "olmo3": {"sliding_window": 7, "layer_types": ["sliding_attention", "sliding_attention", "full_attention"]},
}


def varlen_by_sdpa(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor | None,
    max_q: int,
    max_k: int,
    *,
    return_aux: Any = None,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
    seqused_k: Tensor | None = None,
    block_table: Tensor | None = None,
    num_splits: int | None = None,
) -> Tensor:
    """Replaces `torch.nn.attention.varlen.varlen_attn`: SDPA per sequence, with a mask aligned to the end."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert query.dtype == key.dtype == value.dtype
    assert query.is_contiguous()
    ends_q, ends_k = cu_seq_q.tolist(), cu_seq_k.tolist()
    assert (ends_q[-1], ends_k[-1]) == (len(query), len(key))
    assert (max_q, max_k) == (int(cu_seq_q.diff().max()), int(cu_seq_k.diff().max()))
    assert enable_gqa or query.shape[1] == key.shape[1]
    left, right = window_size
    outputs = []
    for k in range(len(ends_q) - 1):
        own = query[ends_q[k] : ends_q[k + 1]]
        keys, values = key[ends_k[k] : ends_k[k + 1]], value[ends_k[k] : ends_k[k + 1]]
        position = torch.arange(len(own), device=query.device)[:, None] + len(keys) - len(own)
        distance = position - torch.arange(len(keys), device=query.device)
        mask = torch.ones_like(distance, dtype=torch.bool)
        if left >= 0:
            mask &= distance <= left
        if right >= 0:
            mask &= distance >= -right
        tensors = (tensor.transpose(0, 1)[None] for tensor in (own, keys, values))
        output = F.scaled_dot_product_attention(*tensors, attn_mask=mask, scale=scale, enable_gqa=enable_gqa)
        outputs.append(output[0].transpose(0, 1))
    return torch.cat(outputs)


@pytest.fixture
def varlen_on_cpu(monkeypatch) -> Callable[..., None]:
    """`varlen_on_cpu(function=varlen_by_sdpa, grouped=True)`: gives a CPU the kernel, in 16 and 32 bits."""

    def install(function: Callable[..., Tensor] = varlen_by_sdpa, grouped: bool = True) -> None:
        kernel = VarlenKernel(function, grouped, (torch.float32, torch.bfloat16, torch.float16))
        monkeypatch.setattr(varlen_attention, "installed_kernel", lambda device_type: kernel)

    return install


@pytest.fixture
def tiny() -> Callable[..., PreTrainedModel]:
    """`tiny(model_type, **config)`: a model of three layers whose attention is far from uniform."""

    def build(model_type: str, **options: Any) -> PreTrainedModel:
        torch.manual_seed(0)
        model = AutoModel.from_config(AutoConfig.for_model(model_type, **{**SMALL, **options}))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(std=0.3) if parameter.dim() > 1 else parameter.add_(torch.randn(()), alpha=0.1)
        return model.eval()

    return build


@pytest.fixture
def both_ways() -> Callable[..., tuple[list[Any], list[Any]]]:
    """
    `both_ways(model)`: (hidden states at the last tokens, gradients of all parameters), from texts one by one and from
    one shared row. The model keeps the shared layout afterwards.
    """
    rng = np.random.default_rng(0)
    beginnings = [rng.integers(3, 90, length) for length in (13, 40)]
    texts = [np.concatenate([beginnings[k], rng.integers(3, 90, n)]) for k, n in ((0, 3), (0, 18), (0, 1), (0, 6))]
    texts += [np.concatenate([beginnings[1], rng.integers(3, 90, n)]) for n in (30, 2, 9)]
    texts += [rng.integers(3, 90, n) for n in (1, 25)]

    def compute(model: PreTrainedModel) -> tuple[list[Any], list[Any]]:
        device = model.device
        direction = torch.randn(len(texts), model.config.hidden_size, generator=torch.Generator().manual_seed(0))

        def result(hidden: Tensor) -> list[Any]:
            parameters = list(model.parameters())
            loss = (hidden.float() * direction.to(device)).sum()
            grads = torch.autograd.grad(loss, parameters, allow_unused=True)
            return [hidden.detach(), [grad for grad in grads if grad is not None]]

        ids = [torch.from_numpy(text)[None].to(device) for text in texts]
        one_by_one = torch.stack([model(input_ids=one, use_cache=False).last_hidden_state[0, -1] for one in ids])
        separate = result(one_by_one)
        enable_shared_attention(model.config)
        trim_last_layer(model)
        row = flat_row(texts)
        last = torch.tensor([int(row.index(k, np.array([len(text) - 1]))[0]) for k, text in enumerate(texts)])
        row.layout.needed = last
        hidden = model(
            input_ids=torch.from_numpy(row.input_ids)[None].to(device),
            position_ids=torch.from_numpy(row.position_ids)[None].to(device),
            attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device),
            shared_layout=row.layout.to(device),
            use_cache=False,
        ).last_hidden_state[0]
        return separate, result(hidden[last.to(device)])

    return compute
