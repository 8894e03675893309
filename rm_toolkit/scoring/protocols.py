"""Requests and answers of reward model servers, for vLLM and sglang."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar
from typing import Protocol as TypedProtocol


ABOUT = "/v1/models"  # where both name the served model


class Protocol(TypedProtocol):
    """The protocol of one kind of server."""

    path: str
    max_length: int | None

    def request(self, ids: list[list[int]]) -> dict[str, Any]:
        """Returns the body of a request for the rewards of some token ids."""

    def rewards(self, answer: Any) -> list[Any]:
        """Returns the rewards in an answer, in the order of the request."""

    def other_path(self) -> Protocol:
        """Returns the protocol to use if `path` does not exist."""


@dataclass(frozen=True)
class VLLM:
    """
    vLLM's `/classify`, or `/pooling` if a server has only that.

    Args:
        model (`str`): Name under which it serves the model.
        max_length (`int`, *optional*): Most tokens per text, if the server says so.
        path (`str`): Which of the two.
    """

    model: str
    max_length: int | None
    path: str = "/classify"

    @classmethod
    def of(cls, about: Any) -> VLLM | None:
        """Returns the protocol if this is vLLM's description of its models, else `None`."""
        first = _first_model(about)
        if first is None or first.get("owned_by") == "sglang":
            return None
        return cls(str(first["id"]), first.get("max_model_len"))

    def request(self, ids: list[list[int]]) -> dict[str, Any]:
        """Asks for the raw score: the config of a model of another toolkit may differ."""
        body = {"model": self.model, "input": ids, "use_activation": False}
        return body if self.path == "/classify" else {**body, "task": "classify", "encoding_format": "float"}

    def rewards(self, answer: Any) -> list[Any]:
        """One score per text; more are refused."""
        entries = sorted(answer["data"], key=lambda entry: entry["index"])
        return [_only(entry["probs" if self.path == "/classify" else "data"]) for entry in entries]

    def other_path(self) -> VLLM:
        """`/pooling`."""
        return dataclasses.replace(self, path="/pooling")


@dataclass(frozen=True)
class SGLang:
    """
    sglang's own `/classify`; the one in its OpenAI-like paths applies a softmax.

    Args:
        max_length (`int`, *optional*): Most tokens per text, if the server says so.
    """

    path: ClassVar[str] = "/classify"
    max_length: int | None

    @classmethod
    def of(cls, about: Any) -> SGLang | None:
        """Returns the protocol if this is sglang's description of its models, else `None`."""
        first = _first_model(about)
        if first is None or first.get("owned_by") != "sglang":
            return None
        length = first.get("max_model_len")
        return cls(None if length is None else length - 1)  # it refuses a text as long as its context

    def request(self, ids: list[list[int]]) -> dict[str, Any]:
        """Token ids under sglang's name for them."""
        return {"input_ids": ids}

    def rewards(self, answer: Any) -> list[Any]:
        """One entry per text; a single text may come without a list."""
        entries = answer if isinstance(answer, list) else [answer]
        return [_only(entry["embedding"]) for entry in entries]

    def other_path(self) -> SGLang:
        """There is none."""
        return self


PROTOCOLS = (VLLM, SGLang)


def _first_model(about: Any) -> dict[str, Any] | None:
    models = about.get("data") if isinstance(about, dict) else None
    first = models[0] if isinstance(models, list) and models else None
    return first if isinstance(first, dict) and "id" in first else None


def _only(values: Any) -> Any:
    if not isinstance(values, list) or len(values) != 1:
        raise ValueError(f"a text has {len(values) if isinstance(values, list) else values!r} scores, not one")
    return values[0]
