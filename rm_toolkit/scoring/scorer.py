"""Using a trained reward model: rewards of responses, and the best of several."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from ..batches.collator import PreferenceCollator
from ..batches.given_texts import as_format, is_several
from ..batches.rendering import RefusedText
from ..batches.scored_texts import tokenize_texts
from ..batches.tokenization import TokenizedPreferences
from ..data.messages import Conversation
from ..data.schema import Text
from ..errors import InputError
from ..models.adapter_files import tokenizer_source
from ..models.device import compute_device
from ..models.hub_files import split_revision
from ..models.reward_model import RewardModel
from ..models.settings import RewardModelSettings, load_settings
from ..models.shared_prompts.choice import share_if_exact, sharing_pays
from ..models.tokenizer import load_tokenizer
from .adapter_routing import AdapterRouting
from .bare_prompts import warn_of_bare_prompts
from .calibration_file import Calibration, check_calibrated_options, read_calibration, win_probabilities
from .chat_date import dated
from .endpoint import ServedModel
from .reading import guess_settings, reading_of
from .reward_function import reward_function
from .rewards import check_finite, compute_rewards, shared_batches
from .served_example import check_example, check_served_options


# Number of texts per call from which prompt sharing is tried: the trial costs less than scoring them.
WORTH_A_TRIAL = 16
# On a CPU larger batches only overflow the cache; a GPU needs them to stay busy.
TOKENS_PER_BATCH = {"cpu": 4096, "cuda": 16384}


class RewardScorer:
    """
    Scores responses with a reward model, exactly as it was trained to read them.

    Args:
        model (`str`, `os.PathLike` or `RewardModel`): Folder or Hub id of a model or an adapter, or a loaded model.
        tokenizer (*optional*): Needed with a loaded model; otherwise the one saved with it.
        adapters (`Mapping[str, str | os.PathLike]`, *optional*): Folder or Hub id of an adapter for each domain, all
            trained on this model. They are not merged, so that one batch may have rows of all of them.
        endpoint (`str`, *optional*): Address of a server of vLLM or sglang that holds the model, such as
            `http://localhost:8000`; only its tokenizer and settings are read here, and `model` is `None`. The model's
            example is scored immediately and must agree.
        device (`str`, *optional*): Defaults to a GPU where there is one.
        dtype (`torch.dtype`): Precision of the weights, here or at the server.
        tokens_per_batch (`int`, *optional*): Tokens computed at once, or sent in one request, including padding; a shared
            prompt counts once. Default: 16,384 on a GPU and for a server, 4,096 elsewhere.
        chat_date (`str`, *optional*): The date (`YYYY-MM-DD`) for a chat template that asks for one, if the model has
            none stored. Default: today, with a warning.
        trust_remote_code (`bool`): Whether code that comes with the model may run.
        revision (`str`, *optional*): Branch, tag or commit of a model on the Hub; `ID@REVISION` names it too, also of an
            adapter.
        calibrated (`bool`): Whether [`win_probability`] applies the `calibration.json` fitted to exactly this model.

    Raises:
        `InputError`: if the folder has no reward model, an adapter was not trained on it, or the server gives a
            different reward for the example.
    """

    def __init__(
        self,
        model: str | os.PathLike | RewardModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        adapters: Mapping[str, str | os.PathLike] | None = None,
        endpoint: str | None = None,
        device: str | None = None,
        dtype: torch.dtype = torch.float32,
        tokens_per_batch: int | None = None,
        chat_date: str | None = None,
        trust_remote_code: bool = False,
        revision: str | None = None,
        calibrated: bool = False,
    ):
        self.calibration: Calibration | None = None
        if calibrated:
            check_calibrated_options(model, adapters=adapters, endpoint=endpoint)
        self._shares: bool | None = None
        self._checked_fields: set[str] = set()  # what was already checked, and reported, of the texts
        self.routing: AdapterRouting | None = None
        self.served: ServedModel | None = None
        if endpoint is not None:
            check_served_options(model, adapters=adapters, device=device)
            self.model, self.device, self.trust_remote_code = None, torch.device("cpu"), trust_remote_code
            self.source = split_revision(model, revision)
            found, self.settings = reading_of(*self.source, trust_remote_code=trust_remote_code)
            self.tokenizer, self.chat_date = dated(tokenizer or found, self.settings, None, chat_date)
            self.tokens_per_batch = tokens_per_batch or TOKENS_PER_BATCH["cuda"]
            self.served = ServedModel(endpoint, max_length=self.settings.max_length)
            check_example(self, *self.source, dtype)
            return
        self.device = compute_device(device)
        if isinstance(model, (str, os.PathLike)):
            place = name, revision = split_revision(model, revision)
            if tokenizer is None:
                source, of_source = tokenizer_source(name, revision)
                tokenizer = load_tokenizer(source, revision=of_source, trust_remote_code=trust_remote_code)
            options = {"revision": revision, "trust_remote_code": trust_remote_code}
            settings = load_settings(name, revision) or guess_settings(name, tokenizer, **options)
            of_chat = dated(tokenizer, settings, adapters, chat_date)
            model = RewardModel.from_pretrained(name, settings, require_head=True, dtype=dtype, **options)
        else:
            of_chat = dated(tokenizer, model.settings, adapters, chat_date)
        self.tokenizer, self.chat_date = of_chat  # the date only if it is not the model's own
        self.model = model.to(self.device).eval()
        self.settings: RewardModelSettings = model.settings
        self.tokens_per_batch = tokens_per_batch or TOKENS_PER_BATCH.get(self.device.type, 4096)
        if adapters:
            self.routing = AdapterRouting(self.model, adapters)
        if calibrated:
            self.calibration = read_calibration(*place)

    def score(
        self,
        prompts: Sequence[Text],
        completions: Sequence[Any],
        *,
        domains: Sequence[str | None] | None = None,
        tools: Sequence[Any] | None = None,
        chat_template_kwargs: Sequence[Any] | None = None,
        show_progress: bool = False,
        on_progress: Callable[[float], None] | None = None,
    ) -> list[Any]:
        """
        Rewards of all completions. Equal texts are computed once; texts of similar length or with a shared prefix are
        computed together; the order of the rows does not matter.

        Args:
            prompts (`Sequence`): One prompt per row: a string, or a list of messages. For a chat model a string is one
                user turn (or the turns of a marked dialogue); a text model accepts only strings.
            completions (`Sequence`): For each prompt one response (a string or a list of messages) or a list of them.
            domains (`Sequence`, *optional*): The adapter of each row; `None` is the base.
            tools (`Sequence`, *optional*): For each row the tools that the chat template may list (as TRL's column), or
                `None`.
            chat_template_kwargs (`Sequence`, *optional*): For each row more variables of the chat template, or `None`.
            show_progress (`bool`): Whether to draw a progress bar.
            on_progress (`Callable`, *optional*): Called with the fraction done, from 0 to 1.

        Returns:
            `list`: Reward of each completion, in logits; a list if a row has a list of completions.

        Raises:
            `InputError`: if there are not as many prompts, completions and domains, a row has a form that the
                model does not read, or a domain has no adapter.
        """
        given = [len(prompts), len(completions), len(prompts if domains is None else domains)]
        if len(set(given)) > 1:
            raise InputError(f"got {given[0]} prompts, {given[1]} completions, {given[2]} domains; give one per row.")
        for name, values in (("tools", tools), ("chat_template_kwargs", chat_template_kwargs)):
            if values is not None and len(values) != len(prompts):
                raise InputError(f"got {len(prompts)} prompts and {len(values)} `{name}`; give one per row.")
        if domains is not None and self.routing is None:
            raise InputError("`domains` are given, but no adapters. Pass RewardScorer(…, adapters={name: folder}).")
        nested = [is_several(entry) for entry in completions]
        texts, adapters, owners = [], [], []
        for number, (prompt, entry) in enumerate(zip(prompts, completions)):
            adapter = self.routing.number(domains[number]) if domains is not None else 0
            template = (tools and tools[number], chat_template_kwargs and chat_template_kwargs[number])
            for completion in entry if nested[number] else [entry]:
                texts.append(as_format(prompt, completion, self.settings.data_format, *template))
                adapters.append(adapter)
                owners.append(number)
        try:
            rewards = iter(self._rewards(texts, adapters if self.routing else None, show_progress, on_progress))
        except RefusedText as error:
            number = owners[error.number]
            raise RefusedText(f"row {number + 1} of {len(prompts)}: {error}", number) from error
        return [
            [next(rewards) for _ in entry] if several else next(rewards) for entry, several in zip(completions, nested)
        ]

    def _rewards(
        self,
        texts: list[Conversation],
        adapters: list[int] | None,
        show_progress: bool,
        on_progress: Callable[[float], None] | None,
    ) -> list[float]:
        if not texts:
            return []
        warn_of_bare_prompts(texts, self.settings, self._checked_fields)
        data, numbers = tokenize_texts(
            texts,
            self.tokenizer,
            max_length=self.settings.max_length,
            data_format=self.settings.data_format,
            show_progress=show_progress,
            adapters=adapters,
            checked=self._checked_fields,
        )
        done = 0

        def report(count: int) -> None:
            nonlocal done
            done += count
            on_progress(done / data.num_sequences)

        on_batch = report if on_progress else None
        if self.served is not None:
            options = {"show_progress": show_progress, "on_batch": on_batch}
            return self.served.rewards(data, tokens_per_batch=self.tokens_per_batch, **options)[numbers].tolist()
        rewards = compute_rewards(
            self.routing or self.model,
            data,
            self._collator(data),
            tokens_per_batch=self.tokens_per_batch,
            device=self.device,
            show_progress=show_progress,
            mix_adapters=self.routing is None or self.routing.mixes,
            on_batch=on_batch,
        )
        found = rewards[numbers]
        check_finite(found, self.model)
        return found.tolist()

    def try_sharing(self) -> bool:
        """Checks once, by a trial on a model of two layers, whether prompts can be shared exactly."""
        if self._shares is None:
            self._shares = self.served is None and share_if_exact(self.model, self.device)
        return self._shares

    def _collator(self, data: TokenizedPreferences) -> PreferenceCollator:
        """Shares prompts if that is exact and costs no more; for a few texts the trial is not worthwhile."""
        shared = (self._shares is not None or len(data.lengths) >= WORTH_A_TRIAL) and self.try_sharing()
        if shared:
            shared = sharing_pays(self.model.config, data, shared_batches(data, self.tokens_per_batch))
        layout, whole = "shared" if shared else "plain", self.model.settings.pools_all
        return PreferenceCollator(self.tokenizer.pad_token_id or 0, layout=layout, pools_all=whole)

    def best_of_n(
        self, prompt: Text, completions: Sequence[Text], *, domain: str | None = None, **template: Any
    ) -> tuple[int, list[float]]:
        """
        Chooses the best of several responses to one prompt.

        Args:
            prompt (`str` or `list[dict]`): The prompt.
            completions (`Sequence`): The responses; at least one.
            domain (`str`, *optional*): The adapter to use.
            **template: `tools` and `chat_template_kwargs` of the prompt, for the chat template.

        Returns:
            `tuple`: Index of the response with the highest reward (the first among ties), and all rewards in logits.

        Raises:
            `InputError`: if there are no responses.
        """
        if not len(completions):
            raise InputError("`completions` is empty. Give at least one response to choose from.")
        domains = [domain] * len(completions) if domain is not None else None
        columns = {name: [value] * len(completions) for name, value in template.items()}
        rewards = self.score([prompt] * len(completions), completions, domains=domains, **columns)
        return max(range(len(rewards)), key=rewards.__getitem__), rewards

    def win_probability(
        self, prompts: Sequence[Text], completions: Sequence[Text], others: Sequence[Text], **columns: Any
    ) -> list[float]:
        """
        Probability that a completion is preferred to another one: sigmoid of the difference of their rewards, or with
        `calibrated=True` the model's calibration of that difference.

        Args:
            prompts, completions, others (`Sequence`): One prompt, one response and the other response per row.
            **columns: As in [`score`].

        Returns:
            `list[float]`: From 0 to 1; with the two responses swapped it is 1 minus that.
        """
        if len(completions) != len(others):
            raise InputError(f"got {len(completions)} completions and {len(others)} others; give one per row.")
        pairs = [list(pair) for pair in zip(completions, others)]
        rewards = np.array(self.score(prompts, pairs, **columns), dtype=np.float64).reshape(-1, 2)
        return win_probabilities(rewards[:, 0] - rewards[:, 1], self.calibration).tolist()

    def as_reward_function(self, *, domain_column: str | None = None) -> Callable[..., list[float]]:
        """
        A reward function for TRL's `GRPOTrainer` and `RLOOTrainer` (`reward_funcs=`). It reads whole texts as in
        training, with BOS, EOS and left truncation, which those trainers leave out for a model given as a path.

        Args:
            domain_column (`str`, *optional*): Column of the training prompts that names the adapter of each row.

        Returns:
            `Callable`: Takes `prompts`, `completions` and the other columns; returns one reward per completion.
        """
        return reward_function(self.score, domain_column)
