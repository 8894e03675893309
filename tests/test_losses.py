"""The losses against values worked by hand and against float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from rm_toolkit import losses
from rm_toolkit.losses import centering_loss, ranking_loss, text_cross_entropy


BETTER, WORSE = torch.tensor([0, 2]), torch.tensor([1, 1])


def test_ranking_loss_by_hand():
    loss = ranking_loss(torch.tensor([1.0, 0.0, 3.0]), BETTER, WORSE)
    # -log sigmoid(d) = log(1 + e^-d): d = 1 and d = 3
    assert loss.tolist() == pytest.approx([math.log(1 + math.exp(-1)), math.log(1 + math.exp(-3))], abs=1e-7)
    assert loss.tolist() == pytest.approx([0.3132617, 0.0485874], abs=1e-6)


def test_ranking_loss_of_equal_rewards_is_log_two():
    assert ranking_loss(torch.tensor([5.0, 5.0]), torch.tensor([0]), torch.tensor([1])).item() == pytest.approx(
        math.log(2)
    )


def test_ranking_loss_matches_float64_where_the_difference_is_large():
    rewards = torch.tensor([-60.0, 40.0, 100.0, -0.5])
    better, worse = torch.tensor([0, 1, 2, 3]), torch.tensor([1, 0, 3, 0])
    exact = torch.logaddexp(torch.zeros(4, dtype=torch.float64), -(rewards[better] - rewards[worse]).double())
    assert ranking_loss(rewards, better, worse).double() == pytest.approx(exact, rel=1e-6)
    assert ranking_loss(rewards.double(), better, worse).dtype == torch.float64


def test_ranking_loss_falls_when_the_better_reward_rises():
    rewards = torch.tensor([0.3, 0.1], requires_grad=True)
    ranking_loss(rewards, torch.tensor([0]), torch.tensor([1])).sum().backward()
    # d/dd -log sigmoid(d) = -sigmoid(-d)
    expected = -1 / (1 + math.exp(0.2))
    assert rewards.grad.tolist() == pytest.approx([expected, -expected], abs=1e-6)


def test_swapping_better_and_worse_changes_the_loss_by_the_difference():
    rewards = torch.tensor([0.7, -0.4])
    one, two = torch.tensor([0]), torch.tensor([1])
    # log(1 + e^d) - log(1 + e^-d) = d
    change = ranking_loss(rewards, two, one) - ranking_loss(rewards, one, two)
    assert change.item() == pytest.approx(1.1, abs=1e-6)


def test_margin_is_wanted_on_top_of_the_difference():
    rewards = torch.tensor([2.0, 0.0])
    loss = ranking_loss(rewards, torch.tensor([0]), torch.tensor([1]), margin=torch.tensor([1.5]))
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-0.5)), abs=1e-6)


def test_ranking_loss_refuses_unequal_numbers_of_better_and_worse():
    with pytest.raises(ValueError, match="`better` has 2 pairs, but `worse` has 1"):
        ranking_loss(torch.zeros(3), torch.tensor([0, 1]), torch.tensor([2]))


def test_no_pairs_give_no_losses():
    empty = torch.zeros(0, dtype=torch.long)
    assert ranking_loss(torch.zeros(3), empty, empty).shape == (0,)


def test_centering_loss_by_hand():
    loss = centering_loss(torch.tensor([1.0, 2.0, -2.0]), BETTER, WORSE)
    assert loss.tolist() == [9.0, 0.0]
    assert centering_loss(torch.tensor([3.0, -3.0]), torch.tensor([0]), torch.tensor([1])).item() == 0.0


# ---- language modelling ----


def lm_case(num_tokens: int = 23, hidden_size: int = 6, vocab_size: int = 11, num_texts: int = 4):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(num_tokens, hidden_size, generator=generator)
    weight = torch.randn(vocab_size, hidden_size, generator=generator)
    targets = torch.randint(vocab_size, (num_tokens,), generator=generator)
    text_index = torch.randint(num_texts - 1, (num_tokens,), generator=generator).sort().values
    return hidden, weight, targets, text_index, num_texts


def plain_cross_entropy(hidden, weight, targets, text_index, num_texts, bias=None, softcap=None, scale=1.0):
    """The definition in float64: all logits at once, and the mean per text."""
    logits = hidden.double() @ weight.double().T
    if bias is not None:
        logits = logits + bias.double()
    logits = logits * scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    losses_of_tokens = F.cross_entropy(logits, targets, reduction="none")
    return torch.stack(
        [
            losses_of_tokens[text_index == k].mean() if (text_index == k).any() else losses_of_tokens.new_zeros(())
            for k in range(num_texts)
        ]
    )


@pytest.mark.parametrize("chunk_size", [1, 4, 23, 1024])
def test_text_cross_entropy_equals_the_definition_for_every_chunk_size(chunk_size):
    hidden, weight, targets, text_index, num_texts = lm_case()
    share = torch.tensor([1.0, 2.0, -0.5, 3.0])
    hidden.requires_grad_(True), weight.requires_grad_(True)
    found = text_cross_entropy(hidden, weight, targets, text_index, num_texts, chunk_size=chunk_size)
    (found * share).sum().backward()
    gradients = hidden.grad.clone(), weight.grad.clone()

    hidden.grad = weight.grad = None
    expected = plain_cross_entropy(hidden, weight, targets, text_index, num_texts)
    (expected * share).sum().backward()
    torch.testing.assert_close(found, expected.float(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradients[0], hidden.grad, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradients[1], weight.grad, atol=1e-5, rtol=1e-5)


def test_text_cross_entropy_applies_bias_scale_and_softcap():
    hidden, weight, targets, text_index, num_texts = lm_case()
    bias = torch.linspace(-1, 1, weight.shape[0])
    found = text_cross_entropy(
        hidden, weight, targets, text_index, num_texts, bias=bias, softcap=3.0, logit_scale=0.5, chunk_size=5
    )
    expected = plain_cross_entropy(hidden, weight, targets, text_index, num_texts, bias, softcap=3.0, scale=0.5)
    torch.testing.assert_close(found, expected.float(), atol=1e-5, rtol=1e-5)


def test_text_cross_entropy_by_hand():
    # A vocabulary of two tokens, logits (0, 0) and (log 3, 0): the target has probability 1/2, 3/4 and 1/4.
    hidden = torch.tensor([[0.0], [1.0], [1.0]])
    weight = torch.tensor([[math.log(3)], [0.0]])
    found = text_cross_entropy(hidden, weight, torch.tensor([0, 0, 1]), torch.tensor([0, 0, 1]), 2)
    first = -(math.log(1 / 2) + math.log(3 / 4)) / 2
    assert found.tolist() == pytest.approx([first, -math.log(1 / 4)], abs=1e-6)


def test_a_text_without_tokens_has_no_loss():
    hidden, weight, targets, text_index, num_texts = lm_case()
    assert text_cross_entropy(hidden, weight, targets, text_index, num_texts)[num_texts - 1] == 0
    nothing = torch.zeros(0, dtype=torch.long)
    assert text_cross_entropy(hidden[:0], weight, nothing, nothing, 2).tolist() == [0, 0]


def test_text_cross_entropy_never_holds_the_logits_of_all_tokens(monkeypatch):
    hidden, weight, targets, text_index, num_texts = lm_case(num_tokens=40)
    sizes = []
    linear = F.linear

    def watched(inputs, *args):
        result = linear(inputs, *args)
        sizes.append(result.shape[0])
        return result

    monkeypatch.setattr(losses.F, "linear", watched)
    saved = []
    hidden.requires_grad_(True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.shape) or t, lambda t: t):
        loss = text_cross_entropy(hidden, weight, targets, text_index, num_texts, chunk_size=16).sum()
    assert sizes == [16, 16, 8]
    # Between the two passes, no logits are kept, and none are computed again.
    assert not [shape for shape in saved if len(shape) == 2 and shape[1] == weight.shape[0] and shape[0] > 1]
    loss.backward()
    assert sizes == [16, 16, 8]


def test_text_cross_entropy_computes_logits_again_only_where_texts_weigh_differently(monkeypatch):
    hidden, weight, targets, text_index, num_texts = lm_case(num_tokens=40)
    sizes = []
    linear = F.linear
    monkeypatch.setattr(losses.F, "linear", lambda *args: sizes.append(len(args[0])) or linear(*args))
    hidden.requires_grad_(True)
    found = text_cross_entropy(hidden, weight, targets, text_index, num_texts, chunk_size=16)
    (found * torch.tensor([1.0, 2.0, 1.0, 1.0])).sum().backward()
    assert sum(sizes) == 80


def test_text_cross_entropy_gradients_with_bias_scale_and_softcap():
    hidden, weight, targets, text_index, num_texts = lm_case()
    bias = torch.linspace(-1, 1, weight.shape[0])
    leaves = [tensor.requires_grad_(True) for tensor in (hidden, weight, bias)]
    options = {"softcap": 3.0, "chunk_size": 5}
    found = text_cross_entropy(
        hidden, weight, targets, text_index, num_texts, bias=bias, logit_scale=0.5, **options
    ).sum()
    expected = plain_cross_entropy(hidden, weight, targets, text_index, num_texts, bias, softcap=3.0, scale=0.5).sum()
    for one, other in zip(torch.autograd.grad(found, leaves), torch.autograd.grad(expected, leaves)):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_text_cross_entropy_without_gradients_takes_none(monkeypatch):
    hidden, weight, targets, text_index, num_texts = lm_case()
    weight.requires_grad_(True)
    with torch.no_grad():
        found = text_cross_entropy(hidden, weight, targets, text_index, num_texts)
    assert not found.requires_grad


@pytest.mark.parametrize("num_tokens", [64, 512])
def test_text_cross_entropy_memory_does_not_grow_with_the_number_of_tokens(num_tokens):
    """The largest tensor is a chunk of logits or a gradient of the head, never all logits."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        found = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            for one in result if isinstance(result, (tuple, list)) else [result]:
                if isinstance(one, torch.Tensor):
                    self.found = max(self.found, one.numel())
            return result

    hidden, weight, targets, text_index, num_texts = lm_case(num_tokens, hidden_size=8, vocab_size=300)
    hidden.requires_grad_(True), weight.requires_grad_(True)
    with Largest() as largest:
        text_cross_entropy(hidden, weight, targets, text_index, num_texts, chunk_size=16).sum().backward()
    assert largest.found <= max(16 * 300, weight.numel(), hidden.numel())
