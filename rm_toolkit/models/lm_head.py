"""The base model's language-modeling head: saved with the reward model so that a later stage can continue it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig

from ..errors import InputError
from ..losses import text_cross_entropy
from ..output.json_files import REMEDY
from .files import LM_HEAD_FOLDER, SAFE_WEIGHTS
from .folder_checks import file_of_tensor, open_tensors, place_of
from .weight_names import shapes_in_files


class LMHead(nn.Module):
    """
    Computes the mean cross-entropy of texts from final hidden states; a tied head shares the embedding's parameter.

    Args:
        weight (`torch.nn.Parameter` of shape `(vocab_size, hidden_size)`): Its own, or the embedding's if tied.
        bias (`torch.nn.Parameter` of shape `(vocab_size,)`, *optional*): Bias of the head.
        config (`PreTrainedConfig`): Its soft cap and logit scale are applied as in the base model.
        tied (`bool`): Whether `weight` is the input embedding.
    """

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None, config: PreTrainedConfig, tied: bool):
        super().__init__()
        self.weight = weight
        self.bias = bias
        self.tied = tied
        text_config = config.get_text_config()
        self.softcap = getattr(text_config, "final_logit_softcapping", None)
        # Cohere multiplies by `logit_scale`, Granite divides by `logits_scaling`.
        self.logit_scale = getattr(text_config, "logit_scale", None) or 1.0
        self.logit_scale /= getattr(text_config, "logits_scaling", None) or 1.0

    def forward(self, hidden_states: Tensor, targets: Tensor, text_index: Tensor, num_texts: int) -> Tensor:
        """See [`~rm_toolkit.losses.text_cross_entropy`]; returns `torch.Tensor` of shape `(num_texts,)`."""
        autocasts = torch.is_autocast_enabled(hidden_states.device.type)
        return text_cross_entropy(
            hidden_states,
            self.weight,
            targets,
            text_index,
            num_texts,
            bias=self.bias,
            weight_copy=getattr(self, "weight_copy", None) if autocasts else None,
            softcap=self.softcap,
            logit_scale=self.logit_scale,
        )


@dataclass
class LMHeadSource:
    """Where the tensors of a language-modeling head are: nowhere (tied), or under names in safetensors files."""

    tied: bool
    files: dict[str, tuple[str, str]]

    def load(self) -> dict[str, Tensor]:
        """Reads `weight` (and `bias`) on the CPU."""
        tensors = {}
        for name, (path, key) in self.files.items():
            with safe_open(path, framework="pt") as handle:
                tensors[name] = handle.get_tensor(key)
        return tensors


def find_lm_head(
    model_name_or_path: str, config: PreTrainedConfig, *, revision: str | None = None
) -> LMHeadSource | None:
    """
    Finds the language-modeling head of a base model or a saved reward model.

    Returns:
        `LMHeadSource`, or `None` if there is none (an encoder, or a classifier saved without it).
    """
    text_config = config.get_text_config()
    own = place_of(model_name_or_path, SAFE_WEIGHTS, revision, subfolder=LM_HEAD_FOLDER)
    if own is not None:
        return LMHeadSource(
            tied=False,
            files={key: (own, key) for key in check_lm_head(own, getattr(text_config, "hidden_size", None))},
        )
    if getattr(text_config, "tie_word_embeddings", False) and is_causal_lm(config):
        return LMHeadSource(tied=True, files={})
    if not is_causal_lm(config):
        return None
    # The structure on the meta device gives the name of the head in this architecture. The class is called directly:
    # `from_config` would enter DeepSpeed's `zero.Init`, which needs real weights.
    model_class = AutoModelForCausalLM._model_mapping[type(config)]
    with torch.device("meta"):
        skeleton = (model_class[0] if isinstance(model_class, tuple) else model_class)(config)
    head = skeleton.get_output_embeddings()
    prefix = next((name for name, module in skeleton.named_modules() if module is head), None)
    if prefix is None:
        return None
    files = {}
    for name, parameter in head.named_parameters():
        own_name = f"{prefix}.{name}"
        for key in [own_name, *shapes_in_files(skeleton, {own_name: parameter})]:
            path = file_of_tensor(model_name_or_path, key, revision)
            if path is not None:
                files[name] = (path, key)
                break
    return LMHeadSource(tied=False, files=files) if "weight" in files else None


def build_lm_head(source: LMHeadSource | None, embedding: nn.Embedding, config: PreTrainedConfig, name: str) -> LMHead:
    """
    Builds the trainable head: fp32, with as many rows as the embedding.

    Raises:
        `InputError`: if the model has no language-modeling head.
    """
    if source is None:
        raise InputError(
            f"`lm_loss_coef` is above 0, but '{name}' has no language-modeling head (an encoder, or a classifier "
            "saved without one). Set `lm_loss_coef: 0`, or start from a causal LM."
        )
    if source.tied:
        return LMHead(embedding.weight, None, config, tied=True)
    tensors = source.load()
    # Tokens added after the base was trained, such as the pad token, have no rows yet.
    own = {name: with_rows(tensor.float(), embedding.num_embeddings) for name, tensor in tensors.items()}
    bias = nn.Parameter(own["bias"]) if "bias" in own else None
    return LMHead(nn.Parameter(own["weight"].contiguous()), bias, config, tied=False)


def with_rows(tensor: Tensor, rows: int) -> Tensor:
    """
    Returns a weight or bias with at least this many rows: missing ones are the mean of the others, or 0 in a bias.

    Args:
        tensor (`torch.Tensor` of shape `(vocab_size, hidden_size)` or `(vocab_size,)`): Weight or bias.
        rows (`int`): Tokens that need one.
    """
    missing = rows - len(tensor)
    if missing <= 0:
        return tensor
    if tensor.dim() == 1:
        return nn.functional.pad(tensor, (0, missing))
    mean = tensor.float().mean(0, keepdim=True).to(tensor.dtype)
    return torch.cat([tensor, mean.expand(missing, -1)])


def save_lm_head(folder: str | os.PathLike, tensors: dict[str, Tensor]) -> None:
    """Writes the head into the subfolder `lm_head/`, so that readers that load every top-level file do not see it."""
    target = Path(folder, LM_HEAD_FOLDER)
    target.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    save_file(tensors, target / SAFE_WEIGHTS, metadata={"format": "pt"})


def is_causal_lm(config: PreTrainedConfig) -> bool:
    """Whether the architecture predicts next tokens; an encoder that transformers could convert to one does not."""
    encoder_only = getattr(config, "is_decoder", None) is False and hasattr(config, "type_vocab_size")
    return type(config) in AutoModelForCausalLM._model_mapping and not encoder_only


def check_lm_head(path: str | os.PathLike, hidden_size: int | None) -> list[str]:
    """
    Returns the names of the tensors of a saved head, which has a weight for each value of the hidden states.

    Args:
        path (`str` or `os.PathLike`): The safetensors file.
        hidden_size (`int`, *optional*): Of the model; `None` where its config does not say it.

    Raises:
        `InputError`: if the file is damaged, or the head is none of such a model.
    """
    headers = open_tensors(path)
    kind, shape = headers.get("weight", ("", []))
    if len(shape) != 2 or hidden_size not in (None, shape[1]) or not kind.startswith(("F", "BF")):
        found = f"a `weight` of shape {shape} and type {kind}" if shape else "no `weight`"
        raise InputError(
            f"{path} has {found}, but must be the language-modeling head of a model with `hidden_size` "
            f"{hidden_size}. {REMEDY}"
        )
    return list(headers)
