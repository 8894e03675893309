"""A model that was trained on marked dialogues warns once about bare questions."""

from __future__ import annotations

import logging

import pytest
from datasets import Dataset

from rm_toolkit import RewardScorer
from rm_toolkit.data.prompt_ending import prompt_ending
from rm_toolkit.models.reward_model import RewardModel
from rm_toolkit.models.settings import RewardModelSettings
from rm_toolkit.models.tokenizer import load_tokenizer


@pytest.mark.parametrize(
    ("prompts", "ending"),
    [
        (["## Human:\nHi\n\n## Assistant:\n", "\n\nHuman: Hi\n\nAssistant:"], "Assistant:"),
        (["## Human:\nHi\n\n## Assistant:\n"], "## Assistant:"),
        (["\n\nHuman: Hi\n\nAssistant:"], "\n\nAssistant:"),
        (["## Human:\nHi\n\n## Assistant:\n", "Hi"], None),
        ([[{"role": "user", "content": "Hi"}]], None),
        ([], None),
    ],
)
def test_how_prompts_end_is_known_if_all_end_alike(prompts, ending):
    assert prompt_ending({"some": Dataset.from_dict({"prompt": prompts})}) == ending
    assert prompt_ending({"some": Dataset.from_dict({"chosen": ["a"]})}) is None


@pytest.mark.parametrize(
    ("ending", "prompt", "warned"),
    [
        ("Assistant:", "Name a colour.", True),
        ("## Assistant:", "Name a colour.", True),
        ("\n\nAssistant:", "Name a colour.", True),
        ("Assistant:", "## Human:\nName a colour.\n\n## Assistant:\n", False),
        ("\n\nAssistant:", "## Human:\nName a colour.\n\n## Assistant:\n", False),  # marked, in the other way
        ("## Assistant:", "\n\nHuman: Name a colour.\n\nAssistant:", False),
        (None, "Name a colour.", False),
    ],
)
def test_bare_questions_are_warned_of_once(base_model, caplog, ending, prompt, warned):
    base = base_model()
    settings = RewardModelSettings(lineage=[{"stage": "grft", "prompt_ending": ending}])
    scorer = RewardScorer(RewardModel.from_pretrained(base, settings), load_tokenizer(base), device="cpu")
    with caplog.at_level(logging.WARNING):
        scorer.score([prompt], ["Blue."])
        scorer.score([prompt], ["Red."])
    told = [record.getMessage() for record in caplog.records if "was trained on end in it" in record.getMessage()]
    assert len(told) == warned
    if warned:
        assert ("--template human-assistant" in told[0]) == (ending != "\n\nAssistant:")
        assert (r"\n\nHuman: {question}" in told[0]) == (ending != "## Assistant:")
