"""PEFT adapters on a reward model: put on, merged, and loaded from a folder that holds nothing else."""

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
    Puts a fresh adapter on a stock classifier. The reward head is trained and saved with it, whatever the task type.

    Args:
        classifier (`PreTrainedModel`): The stock classifier.
        peft_config (`PeftConfig`): Not changed; without target modules PEFT's own choice for the architecture is taken,
            or all linear layers.
        pooling_type (`str`): With `cls`, what stands before the head (BERT's pooler) is trained and saved too.
        seed (`int`): Seed of the adapter's weights.
        revision (`str`, *optional*): Of the base on the Hub; written into the adapter's config.

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
            # PEFT would choose by the same table, but for mixtures of experts it then finds nothing.
            is_lora = peft_config.peft_type == PeftType.LORA
            known = KNOWN_TARGETS.get(model_type) if is_lora else None
            peft_config.target_modules = known or (None if model_type in KNOWN_TARGETS else "all-linear")
    targets = getattr(peft_config, "target_modules", None)
    if isinstance(targets, str) and targets != "all-linear" and re.fullmatch(r"[\w.]+", targets):
        peft_config.target_modules = {targets}  # one name; PEFT would take it as a pattern of whole paths
    check = TargetCheck.of(classifier)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            with quiet_peft():
                adapted = get_peft_model(classifier, peft_config)
        except (ValueError, TypeError) as error:
            check.refuse_unknown(peft_config)
            raise InputError(f"the adapter cannot be put on {type(classifier).__name__}: {error}") from error
    # Only now: PEFT puts the names that experts had in transformers 4 into those of today.
    check.refuse_unknown(adapted.peft_config["default"])
    return adapted


def untie(head: LMHead, config: PreTrainedConfig) -> tuple[LMHead, LMHeadSource]:
    """
    Gives a tied LM head a trainable weight of its own: an adapter freezes the embedding, but the head is to be trained.

    Returns:
        `tuple`: The head, and a source that says that it is saved by itself.
    """
    with gathered([head.weight]):
        weight = nn.Parameter(head.weight.detach().clone())
    return LMHead(weight, head.bias, config, tied=False), LMHeadSource(tied=False, files={})


def merged_classifier(model: RewardModelParts, state_dict: dict[str, Tensor] | None = None) -> PreTrainedModel:
    """
    Returns a copy of the stock classifier with its adapter merged into the weights; the model stays as it is.

    Args:
        model (`RewardModel`): A PEFT model.
        state_dict (`dict[str, Tensor]`, *optional*): Gathered weights, where the engine shards them.
    """
    if state_dict is None:
        return copy.deepcopy(model.classifier).merge_and_unload()
    # The engine's own copy is in parts; a whole one is built beside it, on the CPU and by this process alone.
    with _without_zero3(), quiet_peft():
        base = type(model.base_classifier)(copy.deepcopy(model.config)).float()
        clone = get_peft_model(base, copy.deepcopy(model.classifier.peft_config["default"]))
        clone.load_state_dict(state_dict)
        return clone.merge_and_unload()


@contextlib.contextmanager
def _without_zero3() -> Iterator[None]:
    """Lets a model be built whole: under ZeRO-3 transformers would take it apart too, and wait for all processes."""
    engine, deepspeed._hf_deepspeed_config_weak_ref = deepspeed._hf_deepspeed_config_weak_ref, None
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = engine


def merged_in_full_precision(model: RewardModelParts) -> PreTrainedModel:
    """
    Returns the stock classifier in fp32 with the base's 4-bit values and the adapter merged into them.

    PEFT's own merge rounds the sum to 4 bits again and gives other rewards than were trained.

    Args:
        model (`RewardModel`): A PEFT model on a 4-bit base; it stays as it is.
    """
    from bitsandbytes.functional import dequantize_4bit

    state: dict[str, Tensor] = {}
    for name, value in model.classifier.state_dict().items():
        if ".weight." not in name:  # behind it stand the scales of the 4-bit values
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
    Loads the base of an adapter and merges the adapter into it, in memory, or keeps it on the base to be trained further.

    Args:
        model_class (`type`): `RewardModel`.
        folder (`str`): Folder or Hub id with `adapter_config.json` and `adapter_model.safetensors`.
        settings (`RewardModelSettings`, *optional*): Defaults to those saved with the adapter, then with the base.
        require_head (`bool`): Whether an adapter without a reward head on a base without one is an error.
        trust_remote_code (`bool`): Whether code that comes with the base may run.
        keep (`bool`): Whether the adapter is trained further. On a base in 4 bits it always is.
        revision (`str`, *optional*): Of the adapter; that of its base stands in its config.
        **options: As in `RewardModel.from_pretrained`.

    Raises:
        `InputError`: if the base is not there, the adapter does not fit it, or is to be trained without a reward head.
    """
    settings = settings or load_settings(folder, revision)
    in_4bit = _take_quantization(folder, revision, options)
    config, weights = read_adapter(folder, revision)
    check_adapter_kind(config)
    base, base_revision = find_base(folder, config)
    has_head = any(part in ("score", "classifier") for key in weights for part in key.split("."))
    if keep and not has_head:
        raise InputError(
            f"the adapter in '{folder}' holds no reward head, and its base is frozen: no head would be trained. Pass "
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
        raise InputError(f"the adapter in '{folder}' cannot be put on its base ({BASE_KEY}): {error}") from error
    # Tokens that the run added (the pad token) have rows in neither file; `resize_token_embeddings` draws them alike.
    tokenizer, tokenizer_revision = tokenizer_source(folder, revision)
    reads = load_tokenizer(tokenizer, revision=tokenizer_revision, trust_remote_code=trust_remote_code)
    model.resize_token_embeddings(len(reads))
    # Merged into 4-bit weights it would be rounded with them: it stays, and a further stage goes on training it.
    model.classifier = _adapted(model.classifier, folder, revision, base, keep=keep or in_4bit)
    # A further adapter on the merged weights names this folder as its base.
    model.name_or_path = model.classifier.name_or_path = model.config._name_or_path = folder
    model.revision, model.settings = recorded_revision(folder, revision), model.settings
    _take_lm_head(model, folder, revision)
    return model


def _adapted(
    classifier: PreTrainedModel, folder: str, revision: str | None, base: str, *, keep: bool
) -> PeftModel | PreTrainedModel:
    """The classifier with the adapter of a folder on it, to be trained further, or merged into it."""
    try:
        with quiet_peft():
            adapted = PeftModel.from_pretrained(classifier, folder, is_trainable=keep, revision=revision)
    except Exception as error:  # each kind of adapter raises what it likes
        raise InputError(
            f"the adapter in '{folder}' does not fit its base '{base}', as its `{ADAPTER_CONFIG}` is: {last_line(error)}"
        ) from error
    return adapted if keep else adapted.merge_and_unload()


def _take_lm_head(model: RewardModelParts, folder: str, revision: str | None) -> None:
    """Replaces the base's LM head by the one that was trained and saved beside the adapter, if there is one."""
    own_head = find_lm_head(folder, model.config, revision=revision)
    if own_head is not None and own_head.files:
        model.lm_head_source = own_head
        if model.lm_head is not None:
            model.lm_head = build_lm_head(own_head, model.get_input_embeddings(), model.config, folder)


def _take_quantization(folder: str, revision: str | None, options: dict[str, Any]) -> bool:
    """Adds to the options how the adapter's base was rounded when it was trained; returns whether it was."""
    settings = load_settings(folder, revision)
    if settings is None or settings.quantization is None:
        return False
    if options.get("quantization_config") is None:
        options["quantization_config"] = make_config(settings.quantization)
    return True


def save_adapter(model: RewardModelParts, folder: Path, state_dict: dict[str, Tensor] | None = None) -> None:
    """Writes the adapter alone: its config and weights, head included, and no generic card."""
    # The embedding is frozen, and rows that were added to it are drawn from a fixed seed: nothing to save.
    model.classifier.save_pretrained(folder, state_dict=state_dict, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)


@contextlib.contextmanager
def quiet_peft() -> Iterator[None]:
    """PEFT 0.21 asks the model under a name that transformers 5.23 deprecates."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield
