"""A reward model from whatever TRL's users pass: a name, a stock classifier, or a reward model."""

from __future__ import annotations

import dataclasses

from tqdm.auto import tqdm
from transformers import PreTrainedModel

from ..errors import InputError
from ..models.hub_files import recorded_revision
from ..models.lm_head import build_lm_head, find_lm_head
from ..models.reward_model import RewardModel
from ..models.settings import RewardModelSettings, load_settings
from .config import RewardModelConfig


def as_reward_model(
    model: str | PreTrainedModel | RewardModel,
    args: RewardModelConfig,
    settings: RewardModelSettings | None,
    require_head: bool,
    new_adapter: bool = False,
) -> RewardModel:
    """
    Wraps a model; the configuration says how the result reads its texts.

    An adapter that is named as the model is trained further, unless a new one is to be put on the merged weights.

    Args:
        model (`str`, `PreTrainedModel` or `RewardModel`): Folder or Hub id, a stock classifier, or a reward model.
        args (`RewardModelConfig`): Configuration.
        settings (`RewardModelSettings`, *optional*): Stage, domain and lineage to record.
        require_head (`bool`): Whether a checkpoint without a reward head is an error.
        new_adapter (`bool`): Whether the trainer puts an adapter on the model.

    Raises:
        `InputError`: if the model has not exactly one label, or what the configuration needs is missing.
    """
    with_lm_head = args.lm_loss_coef > 0
    reads = {"pooling_type": args.pooling_type, "data_format": args.data_format, "max_length": args.max_length}
    if isinstance(model, RewardModel):
        model.settings = dataclasses.replace(settings or model.settings, **reads)
        if with_lm_head and model.lm_head is None:
            embedding = model.get_input_embeddings()
            model.lm_head = build_lm_head(model.lm_head_source, embedding, model.config, model.name_or_path)
        elif model.lm_head is not None and not model.lm_head.tied:
            model.lm_head.requires_grad_(with_lm_head)  # what takes no part in the step may not wait for a gradient
        return model
    if isinstance(model, str):
        init = args.model_init_kwargs or {}
        settings = settings or load_settings(model, init.get("revision")) or RewardModelSettings()
        loaded = RewardModel.from_pretrained(
            model,
            dataclasses.replace(settings, **reads),
            with_lm_head=with_lm_head,
            require_head=require_head,
            seed=args.seed,
            trust_remote_code=args.trust_remote_code,
            keep_adapter=not new_adapter,
            **init,
        )
        if loaded.is_peft and not new_adapter:
            loaded.untie_lm_head()
            if args.should_log:
                tqdm.write(
                    f"The adapter in {model} goes on being trained; --use_peft would put a new one on top of it."
                )
        return loaded
    if getattr(model.config, "num_labels", None) != 1:
        raise InputError(f"the model has `num_labels` {model.config.num_labels}; a reward model has exactly 1.")
    model.config.problem_type = "regression"
    name = model.config._name_or_path
    revision = (args.model_init_kwargs or {}).get("revision")  # a loaded model does not say it
    source = None
    if name or getattr(model.config, "tie_word_embeddings", False):
        source = find_lm_head(name, model.config, revision=revision)
    head = build_lm_head(source, model.get_input_embeddings(), model.config, name) if with_lm_head else None
    settings = dataclasses.replace(settings or RewardModelSettings(), **reads)
    return RewardModel(
        model,
        settings,
        lm_head=head,
        lm_head_source=source,
        name_or_path=name,
        revision=recorded_revision(name, revision),
    )
