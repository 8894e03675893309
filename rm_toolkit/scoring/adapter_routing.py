"""Many adapters on one reward model: each sequence of a batch uses its own adapter, and the base is computed once for all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from torch import Tensor, nn

from ..batches.collator import PreferenceCollator
from ..batches.micro_batch import MicroBatch
from ..batches.tokenization import TokenizedPreferences
from ..errors import InputError, did_you_mean, last_line, name_list
from ..models.adapter_checks import check_adapter
from ..models.adapters import quiet_peft
from ..models.heads import reward_head
from ..models.hub_files import split_revision


if TYPE_CHECKING:
    from ..models.reward_model import RewardModel


class _OtherTokensError(RuntimeError):
    """A layer did not get the tokens of the batch."""


@dataclass
class _Layer:
    """What an adapter adds to a linear layer: `scaling * up(down(x))`."""

    down: nn.Module
    up: nn.Module
    scaling: float


@dataclass
class _Adapter:
    """An adapter with only LoRA of linear layers and a reward head."""

    layers: dict[str, _Layer]
    head: nn.Linear | None


class AdapterRouting:
    """
    Reads each sequence of a batch with its adapter, given by number; 0 is the base itself.

    PEFT's own mixed batches (`adapter_names`) need one padded row per sequence. Here the tokens of an adapter are
    contiguous in any layout, and the adapter is applied only to them: the sums are the same, and prompts are shared
    within an adapter. PEFT loads the adapters one at a time, because its loading time is quadratic in the adapters on
    a model. Adapters other than plain LoRA of linear layers stay on the model and are computed one at a time (`mixes`
    is false).

    Args:
        model (`RewardModel`): The base, in evaluation mode; changed in place.
        adapters (`Mapping[str, str | os.PathLike]`): Folder or Hub id (also `ID@REVISION`) of each adapter, by name.

    Raises:
        `InputError`: if a folder is not an adapter, was trained on another base, or reads its texts differently.
    """

    def __init__(self, model: RewardModel, adapters: Mapping[str, Any]):
        self.model = model
        self.names = list(adapters)
        places = {name: split_revision(folder) for name, folder in adapters.items()}
        for name, place in places.items():
            check_adapter(model, name, *place)
        self._adapters: dict[int, _Adapter] = {}
        self._tokens: dict[int, list[tuple[int, int, int]]] = {}
        self._sequences: list[tuple[int, int, int]] = []
        self.mixes = model.settings.pooling_type != "cls" and self._take_apart(places)
        if not self.mixes:
            self._adapters.clear()
            for number, (name, place) in enumerate(places.items(), 1):
                _attach(model, name, place, _inner_name(number))
        model.eval()

    def number(self, name: str | None) -> int:
        """
        Returns the number of a name.

        Raises:
            `InputError`: if there is no adapter with that name.
        """
        if name is None:
            return 0
        if name not in self.names:
            raise InputError(
                f"the domain '{name}' has no adapter; there are {name_list(self.names)}.{did_you_mean(name, self.names)} "
                "A row without a domain (null) is read by the base."
            )
        return 1 + self.names.index(name)

    def __call__(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """Like `RewardModel.forward`, for a batch with adapters."""
        if self.mixes:
            return self._mixed(batch)
        number = 0 if batch.adapters is None else int(batch.adapters[0])
        tuner = self.model.classifier.base_model
        if number == 0:
            tuner.disable_adapter_layers()
        else:
            tuner.enable_adapter_layers()
            self.model.classifier.set_adapter(_inner_name(number), inference_mode=True)
        return self.model(batch)

    @torch.inference_mode()
    def _take_apart(self, adapters: Mapping[str, tuple[str, str | None]]) -> bool:
        """
        Hooks the layers of all adapters to the base's. Returns whether the rewards are then correct.

        Checked with random tokens, the base and the first two adapters, before and after: a linear layer may get other
        tokens than those of the batch (in mixtures of experts).
        """
        model, collator = self.model, PreferenceCollator(pad_token_id=0)
        data = _random_sequences(model, range(1 + min(2, len(adapters))))
        parts = np.split(np.arange(data.num_sequences), len(set(data.adapter.tolist())))
        expected = [model(collator.sequences(data, parts[0]).to(model.device))[0]]
        for number, (name, place) in enumerate(adapters.items(), 1):
            _attach(model, name, place, _inner_name(1))
            adapter = _plain_adapter(model, _inner_name(1))
            if adapter is not None and number < len(parts):
                expected.append(model(collator.sequences(data, parts[number]).to(model.device))[0])
            _detach(model)
            if adapter is None:
                return False
            self._adapters[number] = adapter
        handles = self._hook()
        try:
            found = self._mixed(collator.sequences(data, np.arange(data.num_sequences)).to(model.device))[0]
        except _OtherTokensError:
            found = None
        exact = next(model.parameters()).dtype == torch.float32 and model.device.type == "cpu"
        tolerance = 1e-4 if exact else 2e-2
        if found is not None and torch.allclose(found, torch.cat(expected), rtol=tolerance, atol=tolerance):
            return True
        for handle in handles:
            handle.remove()
        return False

    def _hook(self) -> list[Any]:
        classifier = self.model.base_classifier
        names = sorted({name for adapter in self._adapters.values() for name in adapter.layers})
        handles = [classifier.get_submodule(name).register_forward_hook(partial(self._add, name)) for name in names]
        return [*handles, reward_head(classifier).register_forward_hook(self._read)]

    def _mixed(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        if batch.adapters is not None:
            self._tokens = _token_pieces(batch)
            first = np.flatnonzero(np.diff(batch.adapters, prepend=batch.adapters[0] - 1)).tolist()
            last = [*first[1:], len(batch.adapters)]
            self._sequences = list(zip(batch.adapters[first].tolist(), first, last))
        try:
            return self.model(batch)
        finally:
            self._tokens, self._sequences = {}, []

    def _add(self, name: str, linear: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Adds the output of each adapter for its tokens to a layer's output."""
        tokens = args[0].reshape(-1, args[0].shape[-1])
        result = output.reshape(-1, output.shape[-1])
        if self._tokens and len(tokens) not in self._tokens:
            raise _OtherTokensError(f"'{name}' was given {len(tokens)} tokens")
        for number, begin, end in self._tokens.get(len(tokens), ()):
            layer = self._adapters[number].layers.get(name) if number in self._adapters else None
            if layer is None:
                continue
            inner = layer.down(tokens[begin:end].to(layer.down.weight.dtype))
            if layer.up.bias is None and layer.up.weight.dtype == result.dtype:
                result[begin:end].addmm_(inner, layer.up.weight.t(), alpha=layer.scaling)
            else:
                result[begin:end] += (layer.up(inner) * layer.scaling).to(result.dtype)
        return result.view_as(output)

    def _read(self, head: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Reads the rewards with the adapters' own heads."""
        for number, begin, end in self._sequences:
            own = self._adapters[number].head if number in self._adapters else None
            if own is not None:
                output[begin:end] = own(args[0][begin:end].to(own.weight.dtype)).to(output.dtype)
        return output


def _random_sequences(model: RewardModel, numbers: range) -> TokenizedPreferences:
    """Two sequences of unequal length for each adapter."""
    rng = np.random.default_rng(0)
    lengths = [7 + 3 * k for k in range(2 * len(numbers))]
    data = TokenizedPreferences.without_pairs(
        "trial",
        ids=rng.integers(3, model.get_input_embeddings().num_embeddings, sum(lengths)).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        completion_start=np.zeros(len(lengths), dtype=np.int32),
    )
    data.adapter = np.repeat(np.arange(len(numbers)), 2)
    return data


def _inner_name(number: int) -> str:
    """PEFT stores adapters under attribute names, which a user's names may not be."""
    return f"domain_{number}"


def _token_pieces(batch: MicroBatch) -> dict[int, list[tuple[int, int, int]]]:
    """
    Places of each adapter's tokens, by the number of tokens that a layer gets: the last MLP gets only those that are
    read.
    """
    pieces = {batch.input_ids.numel(): batch.adapter_tokens}
    if batch.layout is not None and batch.layout.needed is not None:
        needed = batch.layout.needed.cpu().numpy()  # ascending
        bounds = [
            (number, *np.searchsorted(needed, (begin, end)).tolist()) for number, begin, end in batch.adapter_tokens
        ]
        pieces.setdefault(len(needed), bounds)
    return pieces


def _attach(model: RewardModel, name: str, place: tuple[str, str | None], inner_name: str) -> None:
    folder, revision = place
    device = str(model.device)
    try:
        with quiet_peft():
            if model.is_peft:
                model.classifier.load_adapter(folder, inner_name, torch_device=device, revision=revision)
            else:
                model.classifier = PeftModel.from_pretrained(
                    model.classifier, folder, adapter_name=inner_name, torch_device=device, revision=revision
                )
        model.classifier.eval()
    except (RuntimeError, ValueError, KeyError) as error:
        raise InputError(
            f"adapter '{name}': '{folder}' does not fit the base '{model.name_or_path}' with its "
            f"`adapter_config.json`: {last_line(error)}"
        ) from error


def _detach(model: RewardModel) -> None:
    """Returns the model without adapter; PEFT's `unload` would leave the adapter's head in place of the base's."""
    modules = model.base_classifier.named_modules()
    saved = {name: module.original_module for name, module in modules if isinstance(module, ModulesToSaveWrapper)}
    model.classifier = model.classifier.unload()
    for name, original in saved.items():
        parent, _, child = name.rpartition(".")
        setattr(model.classifier.get_submodule(parent), child, original)


def _plain_adapter(model: RewardModel, inner_name: str) -> _Adapter | None:
    """The layers of the model's only adapter, or `None` if it changes anything but linear layers and the head."""
    head = reward_head(model.base_classifier)
    layers = {}
    for name, module in model.base_classifier.named_modules():
        if isinstance(module, LoraLayer):
            if type(module) is not LoraLinear or module.lora_variant:
                return None
            layers[name] = _Layer(
                module.lora_A[inner_name], module.lora_B[inner_name], float(module.scaling[inner_name])
            )
        elif (isinstance(module, AuxiliaryTrainingWrapper) and module is not head) or isinstance(
            module, BaseTunerLayer
        ):
            return None
    own = head.modules_to_save[inner_name] if isinstance(head, ModulesToSaveWrapper) else None
    return _Adapter(layers, own)
