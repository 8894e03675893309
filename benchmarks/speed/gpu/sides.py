"""The sides: TRL by default and at its best, this toolkit plain and fast, and fast without each of its features."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from rm_toolkit.training.config import RewardModelConfig


# By default, Liger replaces `forward` by that of a causal LM, with a loss that a reward model does not have.
LIGER = {
    "use_liger_kernel": True,
    "liger_kernel_config": {"fused_linear_cross_entropy": False, "cross_entropy": False},
}
TRL, TRL_BEST, PLAIN, FAST = "TRL", "TRL at its best", "ours, plain", "ours, fast"
FILLING = "full micro-batches"
MAIN_SIDES = (TRL, TRL_BEST, PLAIN, FAST)  # as in the tables
# As they run: if time runs out, the ratio that matters most is there.
_FIRST = (FAST, TRL_BEST, TRL, PLAIN)


@dataclass(frozen=True)
class Side:
    """
    A contender.

    Args:
        name (`str`): Name in the tables.
        trl (`bool`): Whether it is TRL's trainer.
        options (`dict`): Arguments of its config.
        by_length (`bool`): Whether TRL batches texts of similar length.
        switched_off (`tuple[str]`): Features that are turned off for this side.
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
        """Whether it computes a shared prompt only once."""
        return not self.trl and self.options.get("batch_layout") != "plain"

    @property
    def fills(self) -> bool:
        """Whether its micro-batches are filled by tokens, so that no size needs to be searched."""
        return "max_tokens_per_batch" in self.options


@dataclass(frozen=True)
class Feature:
    """
    A feature that makes the toolkit fast, and how to turn it on and off.

    Args:
        name (`str`): Name in the tables: "ours, fast, without <name>".
        options (`dict`): Arguments of the config that turn it on; empty if it is on by default.
        off (`dict`): Arguments that turn it off, if it is on by default.
        patch (`tuple[str, str, Callable]`, *optional*): `module` or `module:Class`, a name in it, and the value that
            turns the feature off, if no argument does.
        on_cpu (`bool`): Whether it also works on a CPU.
        lacks (`Callable`, *optional*): Returns what else is missing here, or `None`.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    off: dict[str, Any] = field(default_factory=dict)
    patch: tuple[str, str, Callable[..., Any]] | None = None
    on_cpu: bool = False
    lacks: Callable[[], str | None] | None = None

    def missing(self, device: str) -> str | None:
        """The reason why this version or machine lacks it, or `None`."""
        if device == "cpu" and not self.on_cpu:
            return "it is for GPUs"
        names = {item.name for item in dataclasses.fields(RewardModelConfig)}
        unknown = sorted((set(self.options) | set(self.off)) - names)
        if unknown:
            return f"this version has no setting `{unknown[0]}`"
        if self.patch and not hasattr(_holder(self.patch[0]), self.patch[1]):
            return "this version does not have it"
        return self.lacks() if self.lacks else None


def _holder(path: str) -> Any:
    """The module or class at a path such as `package.module:Class`; `None` if it does not exist."""
    module, _, name = path.partition(":")
    try:
        found = importlib.import_module(module)
    except ImportError:
        return None
    return getattr(found, name, None) if name else found


def _no_kernel() -> str | None:
    found = _holder("rm_toolkit.models.shared_prompts.varlen_attention").installed_kernel("cuda")
    return None if found else "the installed torch has no such kernel"


def _no_liger() -> str | None:
    if importlib.util.find_spec("liger_kernel") is None:
        return "the package liger-kernel is not installed"
    return None if _holder("rm_toolkit.models.liger") else "this version does not apply it to a reward model"


def _no_compilation() -> str | None:
    return None if _holder("rm_toolkit.models.compilation") else "this version trains another object than it compiles"


def _no_auto() -> str | None:
    return None if _holder("rm_toolkit.training.micro_batch_size") else "this version does not know 'auto'"


FEATURES = (
    Feature("shared prompts", off={"batch_layout": "plain"}, on_cpu=True),
    Feature(
        "packed attention",  # without it: FlexAttention
        patch=("rm_toolkit.models.shared_prompts.varlen_attention", "installed_kernel", lambda device_type: None),
        lacks=_no_kernel,
    ),
    Feature(
        "casts once a step",
        patch=(
            "rm_toolkit.models.compute_copies:ComputeCopies",
            "used",
            lambda self, keep_frozen=False: contextlib.nullcontext(),
        ),
    ),
    Feature("Liger", options={"use_liger_kernel": True}, lacks=_no_liger),
    Feature("compilation", options={"torch_compile": True}, lacks=_no_compilation),
    Feature(FILLING, options={"max_tokens_per_batch": "auto"}, lacks=_no_auto),
)


def make_sides(device: str) -> dict[str, Side]:
    """
    All sides by name. Features that this version or machine lacks are listed in `left_out` of the fast side.

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


def by_importance(sides: Iterable[Side]) -> list[Side]:
    """The sides in the order in which they run: ours fast and its variants, TRL at its best, TRL, ours plain."""
    return sorted(sides, key=lambda side: _FIRST.index(side.name) if side.name in _FIRST else 0)


@contextlib.contextmanager
def features_of(side: Side) -> Iterator[None]:
    """Turns off, for the block, those features of the side that have to be patched."""
    with contextlib.ExitStack() as stack:
        for feature in FEATURES:
            if feature.patch and feature.name in side.switched_off:
                module, name, value = feature.patch
                stack.enter_context(_replaced(_holder(module), name, value))
        yield


@contextlib.contextmanager
def _replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)
