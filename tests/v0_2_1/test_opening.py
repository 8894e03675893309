"""Every model folder of 0.2.1 opens and gives the same rewards."""

import itertools
import json

import pytest
from v0_2_1.conftest import SCORED

from rm_toolkit import RewardScorer


FOLDERS = ("text", "chat", "encoder", "average", "customized", "lora", "lora/adapter", "lora/checkpoint-3")
STOCK = ("text", "chat", "encoder", "customized", "lora")


def flat(rewards):
    return [value for row in rewards for value in row]


def prompts_of(expected, folder):
    """Prompts as in `generate.py`. For a chat model, they are user turns, one of them late in a dialogue."""
    prompts = expected["prompts"]
    if folder != "chat":
        return prompts
    turns = [[{"role": "user", "content": prompt}] for prompt in prompts]
    talk = [{"role": "user", "content": "Lantern?"}, {"role": "assistant", "content": "River."}]
    turns[1] = [{"role": "system", "content": "Be a garden."}, *talk, *turns[1]]
    return turns


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_gives_the_rewards_it_gave(old, expected, folder):
    scorer = RewardScorer(folder, device="cpu")
    found = scorer.score(prompts_of(expected, folder), expected["completions"])
    assert [len(row) for row in found] == [len(row) for row in expected["rewards"][folder]]
    assert flat(found) == pytest.approx(flat(expected["rewards"][folder]), **SCORED)


def test_the_rewards_lie_far_enough_apart_to_tell_models_and_texts_apart(expected):
    for folder, rewards in expected["rewards"].items():
        values = sorted(flat(rewards))
        assert min(b - a for a, b in itertools.pairwise(values)) > 1e-4, folder
    distinct = {tuple(flat(rewards)) for folder, rewards in expected["rewards"].items() if "lora" not in folder}
    assert len(distinct) == len([folder for folder in expected["rewards"] if "lora" not in folder])


@pytest.mark.parametrize("folder", STOCK)
def test_a_stock_class_gives_the_same_rewards(old, expected, folder):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    rewards = []
    for prompt, completions in zip(prompts_of(expected, folder), expected["completions"]):
        for completion in completions:
            if isinstance(prompt, str):
                inputs = tokenizer(prompt + completion, truncation=True, return_tensors="pt")
            else:
                dialogue = [*prompt, {"role": "assistant", "content": completion}]
                options = {"tokenize": True, "truncation": True, "return_dict": True, "return_tensors": "pt"}
                inputs = tokenizer.apply_chat_template(dialogue, **options)
            with torch.no_grad():
                rewards.append(model(**inputs).logits[0, 0].item())
    # The order of sums differs from the scorer's: a text is computed alone, not in a row with others.
    assert rewards == pytest.approx(flat(expected["rewards"][folder]), abs=1e-5)


def test_a_pooling_that_no_stock_class_reads_names_none(old):
    assert json.loads((old / "average" / "config.json").read_text())["architectures"] == ["RewardModel"]
    assert json.loads((old / "average" / "rm_toolkit.json").read_text())["stock"] is False


def test_an_adapter_of_a_domain_is_routed_beside_the_general_model(old, expected):
    scorer = RewardScorer("text", adapters={"literature": "lora/adapter"}, device="cpu")
    for domain, folder in ((None, "text"), ("literature", "lora")):
        found = scorer.score(expected["prompts"], expected["completions"], domains=[domain] * 4)
        assert flat(found) == pytest.approx(flat(expected["rewards"][folder]), abs=1e-5)
