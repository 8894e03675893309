"""Many adapters on one reward model: each sequence of a batch is read by its own, and the base is computed once for all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from peft import PeftConfig, PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.utils import logging

from .adapters import is_adapter, quiet_peft, read_adapter
from .data.collator import MicroBatch, PreferenceCollator
from .data.tokenization import TokenizedPreferences
from .errors import InputError, did_you_mean, name_list
from .heads import reward_head
from .settings import load_settings


if TYPE_CHECKING:
    from .modeling import RewardModel

logger = logging.get_logger(__name__)


class _OtherTokensError(RuntimeError):
    """A layer was not given the tokens of the batch."""


class AdapterRouting:
    """
    Reads each sequence of a batch with the adapter of its group; group 0 is the base itself.

    PEFT's own mixed batches (`adapter_names`) take one padded row a sequence. Here the tokens of a group stand in one
    piece, whatever the layout, and each LoRA layer adds to that piece alone: the same sums, and prompts are shared
    within a group. What is no plain LoRA of linear layers is read by one adapter at a time (`mixes` is false).

    Args:
        model (`RewardModel`): The base, in evaluation mode; changed in place.
        adapters (`Mapping[str, str | os.PathLike]`): Folder or Hub id of each adapter, by name.

    Raises:
        `InputError`: if a folder is no adapter, was trained on another base, or reads its texts otherwise.
    """

    def __init__(self, model: RewardModel, adapters: Mapping[str, Any]):
        self.model = model
        self.names = list(adapters)
        base = model.name_or_path
        for number, (name, folder) in enumerate(adapters.items(), 1):
            _load(model, name, str(folder), base, _inner_name(number))
        model.classifier.eval()
        self._tokens: dict[int, list[tuple[str, int, int]]] = {}
        self._sequences: list[tuple[str, int, int]] = []
        self.mixes = _only_linear_lora(model) and self._mixes_exactly()
        if self.mixes:
            model.classifier.base_model.disable_adapter_layers()

    def group(self, name: str | None) -> int:
        """
        Returns the group that a name stands for.

        Raises:
            `InputError`: if there is no adapter of that name.
        """
        if name is None:
            return 0
        if name not in self.names:
            raise InputError(
                f"the domain '{name}' has no adapter; there is {name_list(self.names)}.{did_you_mean(name, self.names)} "
                "A row without a domain (null) is read by the base."
            )
        return 1 + self.names.index(name)

    def __call__(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """As `RewardModel.forward`, of a batch that has groups."""
        if self.mixes:
            return self._mixed(batch)
        self._activate(0 if batch.groups is None else int(batch.groups[0]))
        return self.model(batch)

    @torch.inference_mode()
    def _mixes_exactly(self) -> bool:
        """
        Hooks the layers, and tries a batch of random tokens with the base and the first two adapters in it.

        A model may hand a linear layer other tokens than those of the batch (experts do); then one adapter at a time.
        """
        data = _random_sequences(self.model, range(1 + min(2, len(self.names))))
        collator = PreferenceCollator(pad_token_id=0)
        device = self.model.device
        numbers = np.arange(data.num_sequences)
        expected = []
        for part in np.split(numbers, np.flatnonzero(np.diff(data.group)) + 1):
            self._activate(int(data.group[part[0]]))
            expected.append(self.model(collator.sequences(data, part).to(device))[0])
        self.model.classifier.base_model.disable_adapter_layers()
        layers = [module for module in self.model.base_classifier.modules() if isinstance(module, LoraLayer)]
        handles = [layer.register_forward_hook(self._add) for layer in layers]
        head = reward_head(self.model.base_classifier)
        if isinstance(head, ModulesToSaveWrapper):
            handles.append(head.register_forward_hook(self._read))
        try:
            found = self._mixed(collator.sequences(data, numbers).to(device))[0]
        except _OtherTokensError:
            found = None
        wanted = torch.cat(expected)
        tolerance = 1e-4 if next(self.model.parameters()).dtype == torch.float32 and device.type == "cpu" else 2e-2
        if found is not None and torch.allclose(found, wanted, rtol=tolerance, atol=tolerance):
            return True
        for handle in handles:
            handle.remove()
        return False

    def _mixed(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        if batch.groups is not None:
            self._tokens = _token_pieces(batch)
            first = np.flatnonzero(np.diff(batch.groups, prepend=batch.groups[0] - 1))
            last = [*first[1:].tolist(), len(batch.groups)]
            self._sequences = [
                (_inner_name(group), begin, end)
                for group, begin, end in zip(batch.groups[first].tolist(), first.tolist(), last)
            ]
        try:
            return self.model(batch)
        finally:
            self._tokens, self._sequences = {}, []

    def _activate(self, group: int) -> None:
        tuner = self.model.classifier.base_model
        if group == 0:
            tuner.disable_adapter_layers()
        else:
            tuner.enable_adapter_layers()
            self.model.classifier.set_adapter(_inner_name(group), inference_mode=True)

    def _add(self, layer: LoraLinear, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Adds to the base's output what the adapters make of their pieces."""
        tokens = args[0].reshape(-1, args[0].shape[-1])
        result = output.reshape(-1, output.shape[-1])
        if self._tokens and len(tokens) not in self._tokens:
            raise _OtherTokensError(f"a layer was given {len(tokens)} tokens")
        for name, begin, end in self._tokens.get(len(tokens), ()):
            if name not in layer.lora_A:
                continue
            down, up, scaling = layer.lora_A[name], layer.lora_B[name], layer.scaling[name]
            inner = down(tokens[begin:end].to(down.weight.dtype))
            if up.bias is None and up.weight.dtype == result.dtype:
                result[begin:end].addmm_(inner, up.weight.t(), alpha=scaling)
            else:
                result[begin:end] += (up(inner) * scaling).to(result.dtype)
        return result.view_as(output)

    def _read(self, head: ModulesToSaveWrapper, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Reads the rewards with the adapters' own heads."""
        for name, begin, end in self._sequences:
            if name in head.modules_to_save:
                own = head.modules_to_save[name]
                weight = own.weight.to(args[0].dtype)
                bias = None if own.bias is None else own.bias.to(args[0].dtype)
                output[begin:end] = F.linear(args[0][begin:end], weight, bias)
        return output


def _random_sequences(model: RewardModel, groups: range) -> TokenizedPreferences:
    """Two sequences of unequal length for each group."""
    rng = np.random.default_rng(0)
    lengths = [7 + 3 * k for k in range(2 * len(groups))]
    data = TokenizedPreferences.without_pairs(
        "trial",
        ids=rng.integers(3, model.get_input_embeddings().num_embeddings, sum(lengths)).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        completion_start=np.zeros(len(lengths), dtype=np.int32),
    )
    data.group = np.repeat(np.arange(len(groups)), 2)
    return data


def _inner_name(group: int) -> str:
    """PEFT keeps adapters under names of Python attributes, which a user's names need not be."""
    return f"domain_{group}"


def _token_pieces(batch: MicroBatch) -> dict[int, list[tuple[str, int, int]]]:
    """Where each group's tokens stand, by how many tokens a layer is given: the last MLP gets those that are read."""
    pieces = {batch.input_ids.numel(): [(_inner_name(g), begin, end) for g, begin, end in batch.group_tokens]}
    if batch.layout is not None and batch.layout.needed is not None:
        needed = batch.layout.needed.cpu().numpy()  # ascending
        bounds = [(g, *np.searchsorted(needed, (begin, end)).tolist()) for g, begin, end in batch.group_tokens]
        pieces.setdefault(len(needed), [(_inner_name(g), begin, end) for g, begin, end in bounds])
    return pieces


def _load(model: RewardModel, name: str, folder: str, base: str, inner_name: str) -> None:
    if not is_adapter(folder):
        hint = ""
        if is_adapter(str(Path(folder, "adapter"))):
            hint = f" '{Path(folder, 'adapter')}' is one."
        raise InputError(f"adapter '{name}': '{folder}' holds no adapter (`adapter_config.json` alone).{hint}")
    config, _ = read_adapter(folder)
    _check_base(name, folder, config, base)
    settings = load_settings(folder)
    for field in ("pooling_type", "data_format", "max_length") if settings is not None else ():
        ours, theirs = getattr(model.settings, field), getattr(settings, field)
        if ours != theirs:
            raise InputError(
                f"adapter '{name}': `{field}` of '{folder}' is {theirs!r}, the base's is {ours!r}; one batch can be read "
                "in one way only. Train the adapter with the base's, or score with the merged model of that run."
            )
    if getattr(config, "bias", "none") != "none":
        raise InputError(
            f"adapter '{name}': '{folder}' was trained with `bias` '{config.bias}', which changes the base's own biases "
            "for all adapters. Train it with `bias: none`, or score with the merged model of that run."
        )
    try:
        with quiet_peft():
            if model.is_peft:
                model.classifier.load_adapter(folder, inner_name, torch_device=str(model.device))
            else:
                model.classifier = PeftModel.from_pretrained(
                    model.classifier, folder, adapter_name=inner_name, torch_device=str(model.device)
                )
    except (RuntimeError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise InputError(f"adapter '{name}': '{folder}' does not fit the base '{base}': {reason}") from error


def _check_base(name: str, folder: str, config: PeftConfig, base: str) -> None:
    """Refuses an adapter of another base; where only names can be compared and they differ, it says so."""
    named = config.base_model_name_or_path or ""
    places = [path.resolve() for path in (Path(named), Path(folder, named)) if named and path.is_dir()]
    if named == base or (Path(base).is_dir() and Path(base).resolve() in places):
        return
    remedy = f"If it is the same model, write '{base}' into `base_model_name_or_path` of its adapter_config.json."
    if places:
        raise InputError(f"adapter '{name}': '{folder}' was trained on '{named}', not on '{base}'. {remedy}")
    logger.warning(f"adapter '{name}': '{folder}' names the base '{named}', and is used on '{base}'. {remedy}")


def _only_linear_lora(model: RewardModel) -> bool:
    """Whether all that the adapters change is linear layers, by plain LoRA, and the reward head."""
    if model.settings.pooling_type == "cls":  # modules between backbone and head are trained too
        return False
    head = reward_head(model.base_classifier)
    for module in model.base_classifier.modules():
        if isinstance(module, LoraLayer):
            if type(module) is not LoraLinear or module.lora_variant:
                return False
        elif isinstance(module, AuxiliaryTrainingWrapper) and module is not head:
            return False
    if isinstance(head, ModulesToSaveWrapper) and not isinstance(head.original_module, nn.Linear):
        return False
    return all(config.peft_type == "LORA" for config in model.classifier.peft_config.values())
