"""The losses as pure functions of tensors. None of them reduces: the trainer sums, and divides once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


def ranking_loss(rewards: Tensor, better: Tensor, worse: Tensor, margin: Tensor | None = None) -> Tensor:
    r"""
    Negative log-likelihood of each observed preference under Bradley-Terry, in nats. Not reduced.

    Args:
        rewards (`torch.Tensor` of shape `(num_sequences,)`): Reward of each distinct sequence, in logits.
        better (`torch.LongTensor` of shape `(num_pairs,)`): Index into `rewards` of the preferred sequence of each pair.
        worse (`torch.LongTensor` of shape `(num_pairs,)`): Index of the sequence it was preferred to.
        margin (`torch.Tensor` of shape `(num_pairs,)`, *optional*): Wanted distance of the two rewards, in logits.

    Returns:
        `torch.Tensor` of shape `(num_pairs,)`: `log(2)` where the two rewards are equal and no margin is asked for.

    Raises:
        `ValueError`: if `better` and `worse` differ in length.

    References:
        - Bradley-Terry reward model: https://huggingface.co/papers/2203.02155, Eq. 1
        - Margin: https://huggingface.co/papers/2307.09288, Eq. 2
    """
    if better.shape != worse.shape:
        raise ValueError(f"`better` has {better.numel()} pairs, but `worse` has {worse.numel()}.")
    difference = rewards[better] - rewards[worse]
    if margin is not None:
        difference = difference - margin
    return -F.logsigmoid(difference)


def centering_loss(rewards: Tensor, better: Tensor, worse: Tensor) -> Tensor:
    r"""
    Squared sum of the two rewards of each pair: pulls the mean reward towards zero. Not reduced.

    Args:
        rewards (`torch.Tensor` of shape `(num_sequences,)`): Reward of each distinct sequence, in logits.
        better (`torch.LongTensor` of shape `(num_pairs,)`): Index of the preferred sequence of each pair.
        worse (`torch.LongTensor` of shape `(num_pairs,)`): Index of the other one.

    Returns:
        `torch.Tensor` of shape `(num_pairs,)`, in squared logits.

    References:
        - https://huggingface.co/papers/2312.09244, Eq. 2
    """
    return (rewards[better] + rewards[worse]) ** 2


def text_cross_entropy(
    hidden_states: Tensor,
    weight: Tensor,
    targets: Tensor,
    text_index: Tensor,
    num_texts: int,
    *,
    bias: Tensor | None = None,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    chunk_size: int = 1024,
) -> Tensor:
    r"""
    Mean next-token cross-entropy of each text, in nats a token, without ever holding the logits of all tokens.

    The vocabulary logits of `chunk_size` tokens exist at a time; the backward pass computes them again.

    Args:
        hidden_states (`torch.Tensor` of shape `(num_tokens, hidden_size)`): Final hidden state at each predicting token.
        weight (`torch.Tensor` of shape `(vocab_size, hidden_size)`): The language modelling head.
        targets (`torch.LongTensor` of shape `(num_tokens,)`): The token that follows each predicting token.
        text_index (`torch.LongTensor` of shape `(num_tokens,)`): Which text each token belongs to.
        num_texts (`int`): Number of texts.
        bias (`torch.Tensor` of shape `(vocab_size,)`, *optional*): Bias of the head.
        softcap (`float`, *optional*): Logits are `softcap * tanh(logits / softcap)` (Gemma 2).
        logit_scale (`float`): Factor on the logits (Cohere, Granite).
        chunk_size (`int`): Tokens whose logits are held at a time.

    Returns:
        `torch.Tensor` of shape `(num_texts,)`, fp32. A text without tokens gives 0.

    References:
        - Language modelling term of a preference model: https://huggingface.co/papers/2309.03126
    """

    def chunk_loss(hidden: Tensor, target: Tensor, head: Tensor, head_bias: Tensor | None) -> Tensor:
        logits = F.linear(hidden.to(head.dtype), head, head_bias).float()
        if logit_scale != 1.0:
            logits = logits * logit_scale
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        return F.cross_entropy(logits, target, reduction="none")

    pieces = []
    for start in range(0, targets.numel(), chunk_size):
        part = slice(start, start + chunk_size)
        args = (hidden_states[part], targets[part], weight, bias)
        if torch.is_grad_enabled():
            pieces.append(checkpoint(chunk_loss, *args, use_reentrant=False))
        else:
            pieces.append(chunk_loss(*args))
    sums = torch.zeros(num_texts, dtype=torch.float32, device=hidden_states.device)
    if not pieces:
        return sums
    sums = sums.index_add(0, text_index, torch.cat(pieces))
    counts = torch.bincount(text_index, minlength=num_texts).clamp(min=1)
    return sums / counts
