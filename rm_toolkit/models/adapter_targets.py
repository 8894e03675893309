"""Checks the targets of an adapter: types that cannot be trained here, and names that the model does not have."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from peft import PeftConfig, PromptLearningConfig
from torch import nn
from transformers import PreTrainedModel

from ..errors import InputError, did_you_mean, name_list
from .heads import head_name


def check_adapter_kind(peft_config: Any) -> None:
    """
    Refuses adapters that change no weight of the backbone.

    Raises:
        `InputError`: if it is not a `PeftConfig`, and for prompt, prefix and P-tuning.
    """
    if not isinstance(peft_config, PeftConfig):
        raise InputError(
            f"`peft_config` is a {type(peft_config).__name__}; it must be a PEFT config, such as `peft.LoraConfig(r=16)`."
        )
    if isinstance(peft_config, PromptLearningConfig):
        raise InputError(
            f"`peft_config` is a {type(peft_config).__name__}: it trains virtual tokens in front of the text, and "
            "rewards are read from the backbone without them, so nothing would be learned. Use `peft.LoraConfig`."
        )


@dataclass(frozen=True)
class TargetCheck:
    """
    The names of a model's modules and weights before an adapter is added.

    Args:
        model (`str`): Class of the model, for the message.
        modules, parameters (`tuple[str, ...]`): All names.
        linear (`tuple[str, ...]`): Last parts of the names of linear layers, the head's aside.
        wide (`tuple[str, ...]`): Last two parts of the names of weights outside linear layers with two or more
            dimensions, such as the experts'.
    """

    model: str
    modules: tuple[str, ...]
    parameters: tuple[str, ...]
    linear: tuple[str, ...]
    wide: tuple[str, ...]

    @classmethod
    def of(cls, classifier: PreTrainedModel) -> TargetCheck:
        """Reads the names of a classifier."""
        head = head_name(classifier)
        modules = dict(classifier.named_modules())
        layers = {name for name, module in modules.items() if isinstance(module, nn.Linear)}
        linear = {name.split(".")[-1] for name in layers if name != head and "pooler" not in name}
        weights = [(name, weight.dim()) for name, weight in classifier.named_parameters()]
        wide = {
            ".".join(name.split(".")[-2:])
            for name, dimensions in weights
            if dimensions > 1 and name.rpartition(".")[0] not in layers
        }
        names = tuple(name for name, _ in weights)
        return cls(type(classifier).__name__, tuple(modules), names, tuple(sorted(linear)), tuple(sorted(wide)))

    def refuse_unknown(self, peft_config: PeftConfig) -> None:
        """
        Refuses names that match nothing; PEFT ignores them if one of the others matches.

        Args:
            peft_config (`PeftConfig`): As added to the model by PEFT, or as given.

        Raises:
            `InputError`: naming the first of them.
        """
        modules = getattr(peft_config, "target_modules", None)
        if modules is not None and not isinstance(modules, str):  # a pattern, or 'all-linear'
            hint = "'all-linear' selects them all."
            self._refuse("lora_target_modules", modules, self.modules, self.linear, "module", hint)
        parameters = getattr(peft_config, "target_parameters", None)
        self._refuse("lora_target_parameters", parameters or (), self.parameters, self.wide, "weight", "")

    def _refuse(
        self, field: str, targets: Iterable[str], names: tuple[str, ...], known: tuple[str, ...], what: str, hint: str
    ) -> None:
        for target in sorted(targets):
            if any(f".{name}".endswith(f".{target}") for name in names):
                continue
            raise InputError(
                f"`{field}` has '{target}', but {self.model} has no such {what}.{did_you_mean(target, known)} "
                f"It has {name_list(known)}; {hint}".rstrip("; ")
                + ("" if hint else ".")
            )
