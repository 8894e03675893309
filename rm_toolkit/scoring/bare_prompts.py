"""Warns of prompts that lack the mark which all prompts had that a model was trained on: its rewards would be wrong."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ..data.messages import Conversation
from ..data.prompt_ending import are_bare
from ..models.settings import RewardModelSettings


logger = logging.getLogger(__name__)
TEMPLATE = (
    r"`--template human-assistant` wraps plain questions, as '## Human:\n{question}\n\n## Assistant:\n' in Python"
)
HUMAN = r"'\n\nHuman: {question}\n\nAssistant:'"
CHECKED = "prompt ending"  # in the set of what a scorer has checked


def warn_of_bare_prompts(texts: Sequence[Conversation], settings: RewardModelSettings, checked: set[str]) -> None:
    """
    Warns once per scorer if the first texts are bare questions, and the model was trained on marked dialogues.

    Args:
        texts (`Sequence[Conversation]`): As the model reads them.
        settings (`RewardModelSettings`): Their lineage says how the training prompts ended.
        checked (`set[str]`): What the scorer has checked before; this is added.
    """
    ending = settings.lineage[-1].get("prompt_ending") if settings.lineage else None
    if not texts or CHECKED in checked:
        return
    checked.add(CHECKED)
    if settings.data_format != "text" or not isinstance(ending, str):
        return
    if are_bare(f"{text.prompt}{text.completion}" for text in texts):
        logger.warning(
            "No prompt here has '%s', but all prompts that the model was trained on end in it, so these rewards mean "
            "little. Write the prompts as in the training data: %s.",
            ending.strip(),
            HUMAN if ending.startswith("\n") else TEMPLATE if ending.startswith("#") else f"{TEMPLATE}; or {HUMAN}",
        )
