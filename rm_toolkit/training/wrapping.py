"""Makes a reward model from what TRL's users pass: a name, a stock classifier, or a reward model."""

from __future__ import annotations

import dataclasses

from peft import PeftConfig, PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..errors import InputError
from ..models.adapter_files import tokenizer_source
from ..models.adapter_targets import check_adapter_kind
from ..models.finite_weights import check_finite_weights
from ..models.foreign_heads import refuse_unsaved_bias
from ..models.given_adapters import with_trained_head
from ..models.heads import is_encoder
from ..models.hub_files import recorded_revision
from ..models.lm_head import build_lm_head, find_lm_head
from ..models.quantization import quantization_of
from ..models.reward_model import RewardModel
from ..models.settings import RewardModelSettings, load_settings
from ..models.tokenizer import check_fits_model, load_tokenizer, prepare_tokenizer
from ..output.progress import say
from .chat_date import dated_tokenizer
from .config import RewardModelConfig
from .manifest import newest_complete


def as_reward_model(
    model: str | PreTrainedModel | RewardModel,
    args: RewardModelConfig,
    settings: RewardModelSettings | None,
    require_head: bool,
    new_adapter: bool = False,
) -> RewardModel:
    """
    Wraps a model; the configuration decides how it reads texts.

    If the model is an adapter, it is trained further, unless a new adapter is to be added to the merged weights.

    Args:
        model (`str`, `PreTrainedModel` or `RewardModel`): Folder or Hub id, a stock classifier, or a reward model.
        args (`RewardModelConfig`): Configuration.
        settings (`RewardModelSettings`, *optional*): Stage, domain and lineage to record.
        require_head (`bool`): Whether a checkpoint without a reward head is an error.
        new_adapter (`bool`): Whether the trainer adds an adapter to the model.

    Raises:
        `InputError`: if the model does not have exactly one label, or lacks something that the configuration needs.
    """
    if isinstance(model, RewardModel):
        return _configured(model, args, settings)
    if isinstance(model, str):
        return _loaded(model, args, settings, require_head, new_adapter)
    return _wrapped(model, args, settings)


def _reading(settings: RewardModelSettings, args: RewardModelConfig) -> RewardModelSettings:
    """The settings, with the configuration's way of reading texts."""
    return dataclasses.replace(
        settings, pooling_type=args.pooling_type, data_format=args.data_format, max_length=args.max_length
    )


def _without_prompts(before: RewardModelSettings | None) -> RewardModelSettings | None:
    """The settings of a model that is trained further from Python, where nothing is known of the prompts."""
    if before is None:
        return None
    lineage = [{name: value for name, value in stage.items() if name != "prompt_ending"} for stage in before.lineage]
    return dataclasses.replace(before, lineage=lineage)


def _report_other_reading(name: str, before: RewardModelSettings | None, args: RewardModelConfig) -> None:
    """Says so if a reward model is trained further and read in another way than before, which is rarely meant."""
    for setting in ("pooling_type", "data_format") if before is not None else ():
        old, new = getattr(before, setting), getattr(args, setting)
        if old != new:
            say(
                f"warning: {name} was trained with `{setting}: {old}`, and this run uses '{new}'. Set `{setting}: {old}` "
                "to train it further as it is; models that differ in this cannot be merged."
            )


def _configured(model: RewardModel, args: RewardModelConfig, settings: RewardModelSettings | None) -> RewardModel:
    """A reward model in memory, with the LM head that the loss needs."""
    with_lm_head = args.lm_loss_coef > 0
    model.settings = _reading(settings or model.settings, args)
    if with_lm_head and model.lm_head is None:
        embedding = model.get_input_embeddings()
        model.lm_head = build_lm_head(model.lm_head_source, embedding, model.config, model.name_or_path)
    elif model.lm_head is not None and not model.lm_head.tied:
        model.lm_head.requires_grad_(with_lm_head)  # an unused parameter must not expect a gradient
    return model


def _loaded(
    name: str, args: RewardModelConfig, settings: RewardModelSettings | None, require_head: bool, new_adapter: bool
) -> RewardModel:
    """The reward model of a folder or of the Hub."""
    init = args.model_init_kwargs or {}
    before = load_settings(name, init.get("revision"))
    settings = settings or _without_prompts(before) or RewardModelSettings()
    if args.should_log:
        _report_other_reading(name, before, args)
    model = RewardModel.from_pretrained(
        name,
        _reading(settings, args),
        with_lm_head=args.lm_loss_coef > 0,
        require_head=require_head,
        seed=args.seed,
        trust_remote_code=args.trust_remote_code,
        keep_adapter=not new_adapter,
        **init,
    )
    check_finite_weights(model, name)
    if model.is_peft and not new_adapter:
        model.untie_lm_head()
        if args.should_log:
            say(f"The adapter in {name} is trained further; --use_peft would add a new one on top of it.")
    return model


def _wrapped(
    classifier: PreTrainedModel, args: RewardModelConfig, settings: RewardModelSettings | None
) -> RewardModel:
    """A reward model around a stock classifier in memory."""
    if getattr(classifier.config, "num_labels", None) != 1:
        raise InputError(f"the model has `num_labels` {classifier.config.num_labels}; a reward model has exactly 1.")
    classifier.config.problem_type = "regression"
    refuse_unsaved_bias(classifier)
    if isinstance(classifier, PeftModel):
        classifier = with_trained_head(classifier, args.pooling_type, args.seed)
    name = classifier.config._name_or_path
    revision = (args.model_init_kwargs or {}).get("revision")  # a loaded model does not know it
    source = head = None
    if name or getattr(classifier.config, "tie_word_embeddings", False):
        source = find_lm_head(name, classifier.config, revision=revision)
    if args.lm_loss_coef > 0:
        head = build_lm_head(source, classifier.get_input_embeddings(), classifier.config, name)
    model = RewardModel(
        classifier,
        _reading(settings or RewardModelSettings(), args),
        lm_head=head,
        lm_head_source=source,
        name_or_path=name,
        revision=recorded_revision(name, revision),
    )
    if model.is_peft:
        model.untie_lm_head()
    return model


def open_model(
    model: str | PreTrainedModel | RewardModel,
    args: RewardModelConfig,
    tokenizer: PreTrainedTokenizerBase | None,
    peft_config: PeftConfig | None,
    settings: RewardModelSettings | None,
    require_head: bool,
) -> tuple[RewardModel, PreTrainedTokenizerBase]:
    """
    Prepares a model and a tokenizer that fit each other for training.

    Args:
        model (`str`, `PreTrainedModel` or `RewardModel`): Folder or Hub id, a stock classifier, or a reward model.
        args (`RewardModelConfig`): Configuration.
        tokenizer (`PreTrainedTokenizerBase`, *optional*): Defaults to the one saved with the model.
        peft_config (`PeftConfig`, *optional*): Adds an adapter to the model.
        settings (`RewardModelSettings`, *optional*): Stage, domain and lineage to record.
        require_head (`bool`): Whether a checkpoint without a reward head is an error.

    Raises:
        `InputError`: as in [`as_reward_model`]; and if the tokenizer does not fit the model.
    """
    if peft_config is not None:
        check_adapter_kind(peft_config)
        if hasattr(model, "peft_config"):
            raise InputError(
                "`peft_config` is given with a model that has an adapter already. Leave it out to train that adapter, or "
                "merge it first (`model.merge_and_unload()`)."
            )
    name = model if isinstance(model, str) else getattr(model, "name_or_path", "")
    before = _reading_before(model, args)
    model = as_reward_model(model, args, settings, require_head, new_adapter=peft_config is not None)
    if tokenizer is None:
        source, revision = tokenizer_source(name, model.revision)
        tokenizer = load_tokenizer(source, revision=revision, trust_remote_code=args.trust_remote_code)
    check_fits_model(tokenizer, model.config, name)
    tokenizer, model.settings.chat_date = dated_tokenizer(tokenizer, args, before and before.chat_date)
    if settings is None or settings.pools_eos is None:
        model.settings.pools_eos = tokenizer.eos_token_id is not None and _pools_eos(model, before)
    reads = {name: getattr(model.settings, name) for name in ("pooling_type", "data_format", "pools_eos")}
    prepare_tokenizer(tokenizer, model.config, max_length=args.max_length, **reads)
    model.resize_token_embeddings(len(tokenizer))
    if peft_config is not None:
        model.add_adapter(peft_config, seed=args.seed)
    if not model.is_peft and quantization_of(model) is not None:
        raise InputError(
            f"'{name}' is loaded with quantized weights, which cannot be trained. Pass a `peft_config`, too."
        )
    return model, tokenizer


def _reading_before(model: str | PreTrainedModel | RewardModel, args: RewardModelConfig) -> RewardModelSettings | None:
    """How the model has read texts so far: according to the checkpoint that the run resumes from, or to the model."""
    wanted = args.resume_from_checkpoint
    if wanted in (True, "true", "True", "auto"):
        wanted = newest_complete(args.output_dir)
    if wanted and wanted not in ("false", "False") and (found := load_settings(str(wanted))) is not None:
        return found
    if isinstance(model, RewardModel):
        return model.settings
    name = model if isinstance(model, str) else model.config._name_or_path
    return load_settings(name, (args.model_init_kwargs or {}).get("revision")) if name else None


def _pools_eos(model: RewardModel, before: RewardModelSettings | None) -> bool:
    """Whether `average` or `max` pool EOS: a model keeps the way that it was trained with."""
    settings = model.settings
    if settings.pooling_type not in ("average", "max") or settings.data_format != "text":
        return False
    if is_encoder(model.base_classifier):  # its tokenizer adds the special tokens itself
        return False
    if before is not None and before.pooling_type == settings.pooling_type and before.pools_eos is not None:
        return before.pools_eos
    return True
