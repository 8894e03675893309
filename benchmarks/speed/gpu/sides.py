"""Who takes part: TRL as it is and at its best, this toolkit plain and fast, and fast without each of its features."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rm_toolkit.training.config import RewardModelConfig


# Liger's default replaces `forward` by the causal LM's, with a loss that a reward model does not have.
LIGER = {
    "use_liger_kernel": True,
    "liger_kernel_config": {"fused_linear_cross_entropy": False, "cross_entropy": False},
}
TRL, TRL_BEST, PLAIN, FAST = "TRL", "TRL at its best", "ours, plain", "ours, fast"
MAIN_SIDES = (TRL, TRL_BEST, PLAIN, FAST)


@dataclass(frozen=True)
class Side:
    """
    A contender.

    Args:
        name (`str`): In the tables.
        trl (`bool`): Whether it is TRL's trainer.
        options (`dict`): Arguments of its config.
        by_length (`bool`): TRL: batches of texts of like length.
        switched_off (`tuple[str]`): Features that are on wherever they can be, and off here.
        left_out (`tuple[str]`): Features that this machine or version lacks, with the reason.
    """

    name: str
    trl: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    by_length: bool = False
    switched_off: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def shares(self) -> bool:
        """Whether it computes a prompt once."""
        return not self.trl and self.options.get("batch_layout") != "plain"

    @property
    def fills(self) -> bool:
        """Whether its micro-batches are filled by tokens, so that there is no size to search for."""
        return "max_tokens_per_batch" in self.options


@dataclass(frozen=True)
class Feature:
    """
    What makes the toolkit fast, and how it is turned on and off.

    Args:
        name (`str`): In the tables: "ours, without <name>".
        options (`dict`): Arguments of the config that turn it on; empty where it is on by itself.
        off (`dict`): Arguments that turn it off, where it is on by itself.
        patch (`tuple[str, str, Any]`, *optional*): Module, name and value that turn it off, where no argument does.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    off: dict[str, Any] = field(default_factory=dict)
    patch: tuple[str, str, Any] | None = None

    def missing(self, device: str) -> str | None:
        """Why this version or machine lacks it, or `None`."""
        names = {item.name for item in dataclasses.fields(RewardModelConfig)}
        unknown = sorted((set(self.options) | set(self.off)) - names)
        if unknown:
            return f"this version has no setting `{unknown[0]}`"
        if self.patch:
            module, name, _ = self.patch
            if importlib.util.find_spec(module) is None or not hasattr(importlib.import_module(module), name):
                return "this version does not have it"
        if self.options.get("use_liger_kernel"):
            if importlib.util.find_spec("liger_kernel") is None:
                return "the package liger-kernel is not installed"
            if not _module_exists("rm_toolkit.models.fused_kernels"):
                return "in this version `use_liger_kernel` changes nothing"
        if device == "cpu" and not self.off and not self.patch and "max_tokens_per_batch" not in self.options:
            return "it is for GPUs"
        return None


def _module_exists(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


FEATURES = (
    Feature("shared prompts", off={"batch_layout": "plain"}),
    Feature("Liger", options=LIGER),
    Feature("compilation", options={"torch_compile": True}),
)


def make_sides(device: str) -> dict[str, Side]:
    """
    All sides by name; what this version or machine lacks is left out of the fast side, and said there.

    Args:
        device (`str`): `"cpu"` or `"cuda"`.
    """
    lacking = {feature.name: feature.missing(device) for feature in FEATURES}
    present = [feature for feature in FEATURES if lacking[feature.name] is None]
    options = {name: value for feature in present for name, value in feature.options.items()}
    left_out = tuple(f"{name}: {reason}" for name, reason in lacking.items() if reason)
    liger = device == "cuda" and importlib.util.find_spec("liger_kernel") is not None
    no_liger = () if liger else ("Liger: " + ("it is for GPUs" if device == "cpu" else "not installed"),)
    sides = [
        Side(TRL, trl=True),
        Side(TRL_BEST, trl=True, options=LIGER if liger else {}, by_length=True, left_out=no_liger),
        Side(PLAIN, options={"batch_layout": "plain"}),
        Side(FAST, options=options, left_out=left_out),
    ]
    for feature in present:
        kept = {name: value for name, value in options.items() if name not in feature.options}
        name = f"{FAST}, without {feature.name}"
        sides.append(Side(name, options=kept | feature.off, switched_off=(feature.name,)))
    return {side.name: side for side in sides}


@contextlib.contextmanager
def features_of(side: Side) -> Iterator[None]:
    """Within it, what the side has switched off by no argument is off."""
    with contextlib.ExitStack() as stack:
        for feature in FEATURES:
            if feature.patch and feature.name in side.switched_off:
                module, name, value = feature.patch
                stack.enter_context(_replaced(importlib.import_module(module), name, value))
        yield


@contextlib.contextmanager
def _replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)
