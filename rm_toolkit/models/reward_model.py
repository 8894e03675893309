"""The reward model: a stock sequence classifier, its pooling, and the base's language-modeling head."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel

from ..errors import InputError
from .adapter_files import is_adapter
from .adapters import attach_adapter, load_adapter, untie
from .engine_interface import EngineInterface
from .foreign_heads import other_head, refuse_unread_bias
from .heads import (
    check_loaded,
    check_max_length,
    check_pooling,
    head_name,
    initialize_head,
    max_positions,
    pool_first_token,
    reads_like_stock,
    reward_head,
    select_trainable,
)
from .hub_files import recorded_revision
from .lm_head import LMHead, LMHeadSource, build_lm_head, find_lm_head
from .load_errors import weights_error
from .loading import load_classifier_config, quiet_loading
from .pooling import pool
from .precision import WEIGHT_DTYPE, WithoutTF32, tf32_is_on
from .quantization import keep_unpacked
from .settings import RewardModelSettings, load_settings
from .shared_prompts.attention import enable_shared_attention
from .shared_prompts.last_layer import trim_last_layer
from .weight_checks import check_head, check_weights


if TYPE_CHECKING:
    from peft import PeftConfig

    from ..batches.micro_batch import MicroBatch


class RewardModel(EngineInterface, nn.Module):
    """
    Rewards of token sequences, and the language-modeling loss of those that count for it.

    The wrapped classifier is the stock class of its architecture (or a PEFT model around it), so that stock classes
    can load the saved model. Rewards are read from its backbone's final hidden states as `settings.pooling_type` says:
    `"last"` and `"eos"` at the last token, `"average"` and `"max"` over all tokens (padding never enters), `"cls"` by
    the stock class itself. They are raw fp32 floats.

    Args:
        classifier (`PreTrainedModel` or `PeftModel`): `<Arch>ForSequenceClassification` with `num_labels=1`.
        settings (`RewardModelSettings`): How texts are read.
        lm_head (`LMHead`, *optional*): Loaded only if `lm_loss_coef` is not 0.
        lm_head_source (`LMHeadSource`, *optional*): Where the head is stored, so that it is passed on if not loaded.
        name_or_path (`str`): Where the classifier was loaded from.
        revision (`str`, *optional*): Its revision there, if it is not the main one.
    """

    def __init__(
        self,
        classifier: PreTrainedModel,
        settings: RewardModelSettings,
        *,
        lm_head: LMHead | None = None,
        lm_head_source: LMHeadSource | None = None,
        name_or_path: str = "",
        revision: str | None = None,
    ):
        super().__init__()
        self.classifier = classifier
        self.settings = settings
        self.lm_head = lm_head
        self.lm_head_source = lm_head_source
        self.name_or_path = name_or_path
        self.revision = revision

    @property
    def settings(self) -> RewardModelSettings:
        """How texts are read. Setting it checks that the model supports it, and freezes unused parameters."""
        return self._settings

    @settings.setter
    def settings(self, settings: RewardModelSettings) -> None:
        check_pooling(self.base_classifier, settings.pooling_type)
        check_max_length(self.base_classifier, settings.max_length)
        select_trainable(self.base_classifier, settings.pooling_type, adapted=self.is_peft)
        self._settings = settings

    @classmethod
    def from_pretrained(
        cls,
        model_name_or_path: str,
        settings: RewardModelSettings | None = None,
        *,
        with_lm_head: bool = False,
        require_head: bool = False,
        seed: int = 42,
        revision: str | None = None,
        trust_remote_code: bool = False,
        keep_adapter: bool = False,
        **model_init_kwargs: Any,
    ) -> RewardModel:
        """
        Loads a base model (a causal LM or an encoder), a saved reward model, or an adapter (merged into its base).

        Args:
            model_name_or_path (`str`): Folder or Hub id.
            settings (`RewardModelSettings`, *optional*): Defaults to those saved with the model.
            with_lm_head (`bool`): Whether to load the language-modeling head too.
            require_head (`bool`): Whether a checkpoint without a reward head is an error (customized fine-tuning,
                evaluation, scoring) or gets a fresh one drawn from `seed`.
            seed (`int`): Seed of a fresh head.
            revision (`str`, *optional*): Branch, tag or commit on the Hub.
            trust_remote_code (`bool`): Whether code that comes with the model may run.
            keep_adapter (`bool`): Whether an adapter stays on its base, to be trained further, instead of being merged.
            **model_init_kwargs: Passed to `AutoModelForSequenceClassification.from_pretrained`.

        Raises:
            `InputError`: if the checkpoint is not a language model, has more than one label, or has no reward head
                where one is required; or if an adapter's base does not exist.
        """
        if is_adapter(model_name_or_path, revision):
            options = {"with_lm_head": with_lm_head, "seed": seed, "trust_remote_code": trust_remote_code}
            options |= {"require_head": require_head, "keep": keep_adapter, "revision": revision}
            return load_adapter(cls, model_name_or_path, settings, **options, **model_init_kwargs)
        config = load_classifier_config(model_name_or_path, revision=revision, trust_remote_code=trust_remote_code)
        settings = settings or load_settings(model_name_or_path, revision)
        model_init_kwargs.setdefault("dtype", WEIGHT_DTYPE)
        options = {"revision": revision, "trust_remote_code": trust_remote_code, **model_init_kwargs}
        classifier, missing, hint = _load_classifier(model_name_or_path, config, seed, options)
        if settings is None:
            settings = RewardModelSettings(max_length=min(512, max_positions(classifier) or 512))
        checks = {"require_head": require_head, "pooling_type": settings.pooling_type, "hint": hint}
        fresh = check_loaded(model_name_or_path, classifier, missing, **checks)
        if fresh:
            initialize_head(reward_head(classifier), seed)
            if settings.pooling_type == "cls":
                pool_first_token(classifier)
        source = find_lm_head(model_name_or_path, config, revision=revision)
        head = None
        if with_lm_head:
            head = build_lm_head(source, classifier.get_input_embeddings(), config, model_name_or_path)
        where = {"name_or_path": model_name_or_path, "revision": recorded_revision(model_name_or_path, revision)}
        return cls(classifier, settings, lm_head=head, lm_head_source=source, **where)

    def forward(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """
        Computes rewards and language-modeling losses of one micro-batch.

        Args:
            batch (`MicroBatch`): Distinct sequences, see [`~rm_toolkit.batches.micro_batch.MicroBatch`].

        Returns:
            `tuple`: Rewards, `torch.Tensor` of shape `(num_sequences,)`, fp32; and the mean cross-entropy in nats per
                token of each text of the LM loss, `torch.Tensor` of shape `(num_texts,)`, fp32, empty if there is
                none.
        """
        if self.settings.pooling_type == "cls":
            output = self.classifier(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
            return output.logits.squeeze(-1).float(), output.logits.new_zeros(0)
        hidden = self.backbone(**batch.model_inputs()).last_hidden_state
        rewards = self._rewards(hidden, batch)
        if self.lm_head is None or batch.lm_index is None:
            return rewards, rewards.new_zeros(0)
        flat = hidden.reshape(-1, hidden.shape[-1])[batch.lm_index]
        return rewards, self.lm_head(flat, batch.lm_targets, batch.lm_text_index, batch.num_lm_texts)

    def _rewards(self, hidden: Tensor, batch: MicroBatch) -> Tensor:
        pooled = pool(hidden, batch, self.settings.pooling_type)
        head = reward_head(self.base_classifier)
        # The reward stays fp32 under bf16 autocast: two rewards of one prompt often differ by less than bf16 resolves.
        exact = WithoutTF32() if pooled.device.type == "cuda" and tf32_is_on() else contextlib.nullcontext()
        with torch.autocast(device_type=pooled.device.type, enabled=False), exact:
            weight_dtype = next(head.parameters()).dtype
            # A sum over one value and no view of it: FSDP's hooks hang on the tensor that is returned.
            return head(pooled.to(weight_dtype)).float().sum(-1)

    @property
    def base_classifier(self) -> PreTrainedModel:
        """The stock classifier, also inside a PEFT model."""
        inner = self.classifier
        return inner.get_base_model() if hasattr(inner, "get_base_model") else inner

    @property
    def backbone(self) -> PreTrainedModel:
        """The model under the head, which gives hidden states."""
        return self.base_classifier.base_model

    @property
    def config(self) -> PreTrainedConfig:
        return self.base_classifier.config

    @property
    def reads_like_stock(self) -> bool:
        """Whether the architecture's stock class gives the same reward; if not, only rm_toolkit reads it."""
        return reads_like_stock(self.base_classifier, self.settings.pooling_type)

    @property
    def is_peft(self) -> bool:
        """Whether the classifier carries PEFT adapters."""
        return hasattr(self.classifier, "peft_config")

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def enable_shared_layout(self) -> None:
        """
        Lets the backbone compute micro-batches that share prompts; all others are computed as before.

        Raises:
            `UnsupportedAttentionError`: if its attention implementation cannot be wrapped.
        """
        enable_shared_attention(self.config)
        self.backbone.config._attn_implementation = self.config._attn_implementation
        trim_last_layer(self.backbone)

    def add_adapter(self, peft_config: PeftConfig, seed: int = 42) -> None:
        """
        Adds a PEFT adapter to the classifier; head and LM head stay trainable and are saved.

        Args:
            peft_config (`PeftConfig`): Its task type is set to `SEQ_CLS`, which makes PEFT train and save the head.
            seed (`int`): Seed of the adapter's weights.

        Raises:
            `InputError`: if the model has none of the modules that the adapter is for.
        """
        if self.is_peft:  # loaded with an adapter on a 4-bit base, which is trained further
            return
        self.classifier = attach_adapter(self.classifier, peft_config, self.settings.pooling_type, seed, self.revision)
        select_trainable(self.base_classifier, self.settings.pooling_type, adapted=True)
        self.untie_lm_head()

    def untie_lm_head(self) -> None:
        """Gives a tied LM head its own weight, trained next to an adapter, which freezes the embedding."""
        if self.lm_head is not None and self.lm_head.tied:
            self.lm_head, self.lm_head_source = untie(self.lm_head, self.config)

    def resize_token_embeddings(self, num_tokens: int) -> None:
        """Gives the embedding (and an untied, loaded LM head) at least `num_tokens` rows; never shrinks it."""
        missing = num_tokens - self.get_input_embeddings().num_embeddings
        if missing <= 0:
            return
        # transformers draws the new rows around the mean of the others; they must be the same in every run.
        with quiet_loading(), torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(0)
            self.base_classifier.resize_token_embeddings(num_tokens)
        if self.lm_head is not None:
            embedding = self.get_input_embeddings()
            self.lm_head = build_lm_head(self.lm_head_source, embedding, self.config, self.name_or_path)


def _load_classifier(
    name: str, config: PreTrainedConfig, seed: int, options: dict[str, Any]
) -> tuple[PreTrainedModel, set[str], str]:
    """
    Loads the stock classifier; returns it with the names of the weights that the checkpoint lacks, and what to do with a
    reward head that it has under another name.
    """
    check_weights(name, config, options.get("revision"))
    # What the checkpoint lacks besides the head (a pooler, say) is drawn from the seed too.
    with quiet_loading(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            classifier, info = AutoModelForSequenceClassification.from_pretrained(
                name, config=config, output_loading_info=True, use_safetensors=True, **options
            )
        except Exception as error:  # each architecture raises its own errors
            if isinstance(error, TypeError) and "unexpected keyword argument" in str(error):
                option = str(error).rpartition(" ")[2]
                raise InputError(f"`model_init_kwargs` has {option}, which '{name}' cannot be loaded with.") from error
            raise InputError(weights_error(name, config, error)) from error
    if options.get("quantization_config") is not None:
        keep_unpacked(classifier)
    check_head(name, classifier)
    found = (name, classifier, info["unexpected_keys"], options["revision"])
    refuse_unread_bias(*found)
    missing = info["missing_keys"]
    return classifier, missing, other_head(*found) if f"{head_name(classifier)}.weight" in missing else ""
