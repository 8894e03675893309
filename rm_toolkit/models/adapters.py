"""PEFT adapters on a reward model: added, merged, and loaded from an adapter folder."""

from __future__ import annotations

import contextlib
import copy
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from peft import PeftConfig, PeftModel, PeftType, TaskType, get_peft_model
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN_TARGETS
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.integrations import deepspeed

from ..errors import InputError, last_line
from .adapter_files import find_base, read_adapter, tokenizer_source
from .adapter_targets import TargetCheck, check_adapter_kind
from .files import ADAPTER_CONFIG
from .heads import gathered, modules_before_head
from .hub_files import recorded_revision
from .lm_head import LMHead, LMHeadSource, build_lm_head, find_lm_head
from .parts import RewardModelParts
from .quantization import make_config
from .settings import RewardModelSettings, load_settings
from .tokenizer import load_tokenizer


BASE_KEY = f"`base_model_name_or_path` of its {ADAPTER_CONFIG}"
Model = TypeVar("Model", bound=RewardModelParts)


def attach_adapter(
    classifier: PreTrainedModel,
    peft_config: PeftConfig,
    pooling_type: str,
    seed: int = 42,
    revision: str | None = None,
) -> PeftModel:
    """
    Adds a new adapter to a stock classifier. The reward head is trained and saved with it, for any task type.

    Args:
        classifier (`PreTrainedModel`): The stock classifier.
        peft_config (`PeftConfig`): Not changed; without target modules, PEFT's choice for the architecture is used,
            or all linear layers.
        pooling_type (`str`): With `cls`, the module before the head (BERT's pooler) is trained and saved too.
        seed (`int`): Seed of the adapter's weights.
        revision (`str`, *optional*): Revision of the base on the Hub; written into the adapter's config.

    Raises:
        `InputError`: if the target modules are not in the model.
    """
    check_adapter_kind(peft_config)
    peft_config = copy.deepcopy(peft_config)
    peft_config.task_type, peft_config.inference_mode = TaskType.SEQ_CLS, False
    peft_config.revision = revision or peft_config.revision
    if pooling_type == "cls":
        peft_config.modules_to_save = [*(peft_config.modules_to_save or []), *modules_before_head(classifier)]
    if hasattr(peft_config, "target_modules") and not peft_config.target_modules:
        model_type = classifier.config.get_text_config().model_type
        if not getattr(peft_config, "target_parameters", None):
            # PEFT would choose by the same table, but finds nothing for mixtures of experts.
            is_lora = peft_config.peft_type == PeftType.LORA
            known = KNOWN_TARGETS.get(model_type) if is_lora else None
            peft_config.target_modules = known or (None if model_type in KNOWN_TARGETS else "all-linear")
    targets = getattr(peft_config, "target_modules", None)
    if isinstance(targets, str) and targets != "all-linear" and re.fullmatch(r"[\w.]+", targets):
        peft_config.target_modules = {targets}  # one name; PEFT would treat a string as a pattern for whole paths
    check = TargetCheck.of(classifier)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            with quiet_peft():
                adapted = get_peft_model(classifier, peft_config)
        except (ValueError, TypeError) as error:
            check.refuse_unknown(peft_config)
            raise InputError(f"the adapter cannot be added to {type(classifier).__name__}: {error}") from error
    # Only now: PEFT translates the names that experts had in transformers 4.
    check.refuse_unknown(adapted.peft_config["default"])
    return adapted


def untie(head: LMHead, config: PreTrainedConfig) -> tuple[LMHead, LMHeadSource]:
    """
    Gives a tied LM head its own trainable weight: an adapter freezes the embedding, but the head must be trained.

    Returns:
        `tuple`: The head, and a source that marks it as saved separately.
    """
    with gathered([head.weight]):
        weight = nn.Parameter(head.weight.detach().clone())
    return LMHead(weight, head.bias, config, tied=False), LMHeadSource(tied=False, files={})


def merged_classifier(model: RewardModelParts, state_dict: dict[str, Tensor] | None = None) -> PreTrainedModel:
    """
    Returns a copy of the stock classifier with its adapter merged into the weights; the model is not changed.

    Args:
        model (`RewardModel`): A PEFT model.
        state_dict (`dict[str, Tensor]`, *optional*): Gathered weights, where the engine shards them.
    """
    if state_dict is None:
        return copy.deepcopy(model.classifier).merge_and_unload()
    # The engine's copy is sharded; a whole one is built on the CPU, by this process only.
    with _without_zero3(), quiet_peft():
        base = type(model.base_classifier)(copy.deepcopy(model.config)).float()
        clone = get_peft_model(base, copy.deepcopy(model.classifier.peft_config["default"]))
        clone.load_state_dict(state_dict)
        return clone.merge_and_unload()


@contextlib.contextmanager
def _without_zero3() -> Iterator[None]:
    """Builds a model unsharded: under ZeRO-3 transformers would shard it too, and wait for all processes."""
    engine, deepspeed._hf_deepspeed_config_weak_ref = deepspeed._hf_deepspeed_config_weak_ref, None
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = engine


def merged_in_full_precision(model: RewardModelParts) -> PreTrainedModel:
    """
    Returns the stock classifier in fp32 with the base's 4-bit values and the adapter merged into them.

    PEFT's own merge rounds the sum to 4 bits again, which changes the trained rewards.

    Args:
        model (`RewardModel`): A PEFT model on a 4-bit base; it is not changed.
    """
    from bitsandbytes.functional import dequantize_4bit

    state: dict[str, Tensor] = {}
    for name, value in model.classifier.state_dict().items():
        if ".weight." not in name:  # followed by the scales of the 4-bit values
            state[name] = value.detach().float().cpu()
    for name, parameter in model.classifier.named_parameters():
        if getattr(parameter, "quant_state", None) is not None:
            state[name] = dequantize_4bit(parameter.data, parameter.quant_state).float().cpu()
    merged = merged_classifier(model, state)
    del merged.config.quantization_config
    return merged


def load_adapter(
    model_class: type[Model],
    folder: str,
    settings: RewardModelSettings | None,
    *,
    require_head: bool,
    trust_remote_code: bool = False,
    keep: bool = False,
    revision: str | None = None,
    **options: Any,
) -> Model:
    """
    Loads the base of an adapter and merges the adapter into it, in memory, or keeps it on the base.

    Args:
        model_class (`type`): `RewardModel`.
        folder (`str`): Folder or Hub id with `adapter_config.json` and `adapter_model.safetensors`.
        settings (`RewardModelSettings`, *optional*): Defaults to those saved with the adapter, then with the base.
        require_head (`bool`): Whether an adapter without a reward head on a base without one is an error.
        trust_remote_code (`bool`): Whether code that comes with the base may run.
        keep (`bool`): Whether the adapter is trained further. On a base in 4 bits it always is.
        revision (`str`, *optional*): Revision of the adapter; that of its base is in its config.
        **options: As in `RewardModel.from_pretrained`.

    Raises:
        `InputError`: if the base does not exist, the adapter does not fit, or would be trained without a head.
    """
    settings = settings or load_settings(folder, revision)
    in_4bit = _take_quantization(folder, revision, options)
    config, weights = read_adapter(folder, revision)
    check_adapter_kind(config)
    base, base_revision = find_base(folder, config)
    has_head = any(part in ("score", "classifier") for key in weights for part in key.split("."))
    if keep and not has_head:
        raise InputError(
            f"the adapter in '{folder}' has no reward head, and its base is frozen: no head would be trained. Pass "
            "--use_peft to merge it and train a new adapter with a head."
        )
    try:
        model = model_class.from_pretrained(
            base,
            settings,
            require_head=require_head and not has_head,
            revision=base_revision,
            trust_remote_code=trust_remote_code,
            **options,
        )
    except InputError as error:
        raise InputError(f"the adapter in '{folder}' cannot be added to its base ({BASE_KEY}): {error}") from error
    # Tokens that the run added (the pad token) have rows in neither file; they are redrawn equally.
    tokenizer, tokenizer_revision = tokenizer_source(folder, revision)
    reads = load_tokenizer(tokenizer, revision=tokenizer_revision, trust_remote_code=trust_remote_code)
    model.resize_token_embeddings(len(reads))
    # Merged into 4-bit weights it would be rounded too: it is kept, and a further stage continues training it.
    model.classifier = _adapted(model.classifier, folder, revision, base, keep=keep or in_4bit)
    # A new adapter on the merged weights names this folder as its base.
    model.name_or_path = model.classifier.name_or_path = model.config._name_or_path = folder
    model.revision, model.settings = recorded_revision(folder, revision), model.settings
    _take_lm_head(model, folder, revision)
    return model


def _adapted(
    classifier: PreTrainedModel, folder: str, revision: str | None, base: str, *, keep: bool
) -> PeftModel | PreTrainedModel:
    """The classifier with the adapter of a folder, for further training, or merged into it."""
    try:
        with quiet_peft():
            adapted = PeftModel.from_pretrained(classifier, folder, is_trainable=keep, revision=revision)
    except Exception as error:  # each kind of adapter raises its own errors
        raise InputError(
            f"the adapter in '{folder}' does not fit its base '{base}' with its `{ADAPTER_CONFIG}`: {last_line(error)}"
        ) from error
    return adapted if keep else adapted.merge_and_unload()


def _take_lm_head(model: RewardModelParts, folder: str, revision: str | None) -> None:
    """Replaces the base's LM head by the one that was trained and saved with the adapter, if there is one."""
    own_head = find_lm_head(folder, model.config, revision=revision)
    if own_head is not None and own_head.files:
        model.lm_head_source = own_head
        if model.lm_head is not None:
            model.lm_head = build_lm_head(own_head, model.get_input_embeddings(), model.config, folder)


def _take_quantization(folder: str, revision: str | None, options: dict[str, Any]) -> bool:
    """Adds the quantization of the adapter's base in training to the options; returns whether there was any."""
    settings = load_settings(folder, revision)
    if settings is None or settings.quantization is None:
        return False
    if options.get("quantization_config") is None:
        options["quantization_config"] = make_config(settings.quantization)
    return True


def save_adapter(model: RewardModelParts, folder: Path, state_dict: dict[str, Tensor] | None = None) -> None:
    """Writes only the adapter: its config and weights, head included, without a generic card."""
    # The embedding is frozen, and added rows are drawn from a fixed seed: nothing to save.
    model.classifier.save_pretrained(folder, state_dict=state_dict, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)


@contextlib.contextmanager
def quiet_peft() -> Iterator[None]:
    """PEFT 0.21 uses a name that transformers 5.23 deprecates."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield
