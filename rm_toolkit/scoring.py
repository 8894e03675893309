"""Using a trained reward model: rewards of responses, and the best of several."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from .adapters import is_adapter, tokenizer_source
from .batch_layout import layout_problem
from .data.collator import PreferenceCollator
from .data.tokenization import Text, tokenize_texts
from .evaluation.rewards import compute_rewards
from .lm_head import is_causal_lm
from .modeling import RewardModel, load_config
from .settings import RewardModelSettings, load_settings
from .tokenizer import load_tokenizer


# Texts of one call from which on it is tried whether prompts can be shared: the trial takes less than their scoring.
WORTH_A_TRIAL = 16


class RewardScorer:
    """
    Scores responses with a reward model, exactly as it was trained to read them.

    Args:
        model (`str`, `os.PathLike` or `RewardModel`): Folder or Hub id of a model or an adapter, or a loaded model.
        tokenizer (*optional*): Needed with a loaded model; otherwise the one saved with it.
        device (`str`, *optional*): Defaults to a GPU where there is one.
        dtype (`torch.dtype`): Precision of the weights.
        tokens_per_batch (`int`): Padded tokens computed at once.
        trust_remote_code (`bool`): Whether code that comes with the model may run.
    """

    def __init__(
        self,
        model: str | os.PathLike | RewardModel,
        tokenizer=None,
        *,
        device: str | None = None,
        dtype: torch.dtype = torch.float32,
        tokens_per_batch: int = 16384,
        trust_remote_code: bool = False,
    ):
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if isinstance(model, (str, os.PathLike)):
            model = str(model)
            self.tokenizer = tokenizer or load_tokenizer(tokenizer_source(model), trust_remote_code=trust_remote_code)
            settings = load_settings(model) or _guess_settings(model, self.tokenizer, trust_remote_code)
            model = RewardModel.from_pretrained(
                model, settings, require_head=True, dtype=dtype, trust_remote_code=trust_remote_code
            )
        else:
            self.tokenizer = tokenizer
        self.model = model.to(self.device).eval()
        self.settings: RewardModelSettings = model.settings
        self.tokens_per_batch = tokens_per_batch
        self._shares: bool | None = None

    def score(
        self, prompts: Sequence[Text], completions: Sequence[Text], *, show_progress: bool = False
    ) -> list[float]:
        """
        Args:
            prompts (`Sequence`): One prompt a completion: a string, or a list of messages for a chat model.
            completions (`Sequence`): The responses.
            show_progress (`bool`): Whether to draw a progress bar.

        Returns:
            `list[float]`: Reward of each completion, in logits.

        Raises:
            `ValueError`: if there are not as many prompts as completions.
        """
        if len(prompts) != len(completions):
            raise ValueError(f"got {len(prompts)} prompts and {len(completions)} completions; give one prompt each.")
        if not len(completions):
            return []
        data, numbers = tokenize_texts(
            list(zip(prompts, completions)),
            self.tokenizer,
            max_length=self.settings.max_length,
            data_format=self.settings.data_format,
            show_progress=show_progress,
        )
        rewards = compute_rewards(
            self.model,
            data,
            PreferenceCollator(self.tokenizer.pad_token_id or 0, layout=self._layout(len(data.lengths))),
            tokens_per_batch=self.tokens_per_batch,
            device=self.device,
            show_progress=show_progress,
        )
        return rewards[numbers].tolist()

    def _layout(self, num_texts: int) -> str:
        """Shares prompts where that is exact; a few texts are not worth the trial that shows it."""
        if self._shares is None and num_texts >= WORTH_A_TRIAL:
            self._shares = layout_problem(self.model, self.device) is None
            if self._shares:
                self.model.enable_shared_layout()
        return "shared" if self._shares else "plain"

    def best_of_n(self, prompt: Text, completions: Sequence[Text]) -> tuple[int, list[float]]:
        """
        Chooses among several responses to one prompt.

        Args:
            prompt (`str` or `list[dict]`): The prompt.
            completions (`Sequence`): The responses.

        Returns:
            `tuple`: Index of the response with the highest reward (the first of equals), and all rewards.
        """
        rewards = self.score([prompt] * len(completions), completions)
        return max(range(len(rewards)), key=rewards.__getitem__), rewards


def _guess_settings(model: str, tokenizer, trust_remote_code: bool) -> RewardModelSettings:
    """
    For reward models of other toolkits: read as the stock class does (a decoder's last token, an encoder's own
    pooling); a chat template means chat data.
    """
    length = tokenizer.model_max_length if tokenizer.model_max_length < 1_000_000 else 4096
    pooling_type = "last"
    if not is_adapter(model):
        config = load_config(model, trust_remote_code=trust_remote_code)
        length = min(length, getattr(config.get_text_config(), "max_position_embeddings", None) or length)
        if not is_causal_lm(config) and type(config).__module__.startswith("transformers."):
            pooling_type = "cls"
    data_format = "chat" if tokenizer.chat_template else "text"
    return RewardModelSettings(pooling_type=pooling_type, data_format=data_format, max_length=length)
