"""A scorer as a reward function for TRL's online trainers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..data.messages import TEMPLATE_COLUMNS
from ..data.schema import Text


def reward_function(score: Callable[..., list[float]], domain_column: str | None) -> Callable[..., list[float]]:
    """
    Returns a function of `prompts`, `completions` and the other columns that gives one reward per completion.

    Args:
        score (`Callable`): [`RewardScorer.score`].
        domain_column (`str`, *optional*): Column that names the adapter of each row.
    """

    def reward(prompts: list[Text], completions: list[Text], **columns: Any) -> list[float]:
        domains = columns[domain_column] if domain_column is not None else None
        template = {name: columns[name] for name in TEMPLATE_COLUMNS if columns.get(name) is not None}
        return score(prompts, completions, domains=domains, **template)

    return reward
