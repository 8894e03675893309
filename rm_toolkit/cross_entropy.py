"""Cross-entropy of a large vocabulary in chunks: the logits of a few tokens exist at a time, and are computed once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


# Logits that are held at a time by default: 16 MB in fp32 on a CPU, 256 MB on a GPU, where small products are slow.
LOGITS_AT_A_TIME = {"cpu": 2**22, "cuda": 2**26}


def default_chunk_size(vocab_size: int, device: torch.device) -> int:
    """Tokens whose logits are held at a time."""
    return max(16, LOGITS_AT_A_TIME.get(device.type, 2**24) // vocab_size)


class ChunkedCrossEntropy(torch.autograd.Function):
    """
    Sum over the tokens of each text of their cross-entropy times `token_weight`.

    The gradient of a chunk is taken at once, while its logits are there, for a gradient of 1 of every text; the
    backward pass scales it. Where the texts' gradients differ, which no loss of this toolkit asks for, the logits are
    computed again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        text_index: Tensor,
        token_weight: Tensor,
        num_texts: int,
        options: tuple[float | None, float, int],
        with_grad: bool,
    ) -> Tensor:
        losses, grads = _chunks(hidden, weight, bias, targets, token_weight, options, with_grad)
        device = hidden.device.type
        ctx.autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        ctx.num_texts, ctx.options = num_texts, options
        if with_grad:
            ctx.save_for_backward(hidden, weight, bias, targets, text_index, token_weight, *grads)
        return losses.new_zeros(num_texts).index_add(0, text_index, losses * token_weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, text_index, token_weight, *grads = ctx.saved_tensors
        if bool((grad == grad[0]).all()):
            scaled = [None if one is None else one * grad[0].to(one.dtype) for one in grads]
        else:
            with torch.autocast(hidden.device.type, ctx.autocast, enabled=ctx.autocast is not None):
                share = token_weight * grad[text_index]
                _, scaled = _chunks(hidden, weight, bias, targets, share, ctx.options, True)
        return (*scaled, *[None] * 6)


def _chunks(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    share: Tensor,
    options: tuple[float | None, float, int],
    with_grad: bool,
) -> tuple[Tensor, list[Tensor | None]]:
    """Losses of all tokens, and the gradients of their sum weighted by `share` for hidden states, weight and bias."""
    softcap, scale, chunk_size = options
    losses = torch.empty(targets.shape, dtype=torch.float32, device=hidden.device)
    hidden_grad = torch.empty_like(hidden) if with_grad else None
    weight_grad = torch.zeros_like(weight) if with_grad and weight.requires_grad else None
    bias_grad = torch.zeros_like(bias) if with_grad and bias is not None else None
    for start in range(0, targets.numel(), chunk_size):
        part = slice(start, start + chunk_size)
        inputs = hidden[part].to(weight.dtype)
        logits = F.linear(inputs, weight, bias).float()
        if scale != 1.0:
            logits *= scale
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        column = targets[part].unsqueeze(1)
        log_sum = torch.logsumexp(logits, dim=1)
        losses[part] = log_sum - logits.gather(1, column).squeeze(1)
        if not with_grad:
            continue
        slope = None if softcap is None else 1 - (logits / softcap) ** 2
        grad = logits.sub_(log_sum.unsqueeze(1)).exp_()  # the logits are not needed again
        grad.scatter_add_(1, column, -torch.ones_like(column, dtype=grad.dtype))
        grad *= (share[part] * scale).unsqueeze(1)
        if slope is not None:
            grad *= slope
        grad = grad.to(weight.dtype)
        hidden_grad[part] = (grad @ weight).to(hidden.dtype)
        if weight_grad is not None:
            weight_grad += grad.T @ inputs
        if bias_grad is not None:
            bias_grad += grad.sum(0)
    return losses, [hidden_grad, weight_grad, bias_grad]
