"""Reads weights, logs and results of finished runs, and compares them bit for bit or within an engine's rounding."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load

from rm_toolkit.output.console import console
from rm_toolkit.training.manifest import find_checkpoint


SPEEDS = ("runtime", "per_second")
TOLERANCE = 1e-6  # DeepSpeed's


def ending(folder: Path) -> tuple[bytes, list[dict[str, Any]], str]:
    """Weights (bytes of the safetensors files), logs without timings, and results (JSON text) of a finished run."""
    newest = find_checkpoint(folder)[0]
    logs = json.loads(Path(str(newest), "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    logs = [{key: value for key, value in log.items() if not key.endswith(SPEEDS)} for log in logs]
    weights = b"".join((folder / name).read_bytes() for name in ("model.safetensors", "lm_head/model.safetensors"))
    return weights, logs, (folder / "final_eval_results.json").read_text(encoding="utf-8")


def is_close(one: Any, other: Any) -> bool:
    """Whether two values that `ending` returned, or parts of them, agree to 1e-6. Prints what differs."""
    if isinstance(one, bytes):
        difference = 0.0
        for mine, theirs in zip(read_tensors(one), read_tensors(other), strict=True):
            difference = max(difference, (mine.double() - theirs.double()).abs().max().item())
        console.print(f"largest difference of a weight: {difference:.1e}")
        return difference <= TOLERANCE
    if isinstance(one, str):
        return is_close(json.loads(one), json.loads(other))
    if isinstance(one, dict):
        for key in one:
            if key not in other or not is_close(one[key], other[key]):
                console.print(f"{key}: {one[key]} is not {other.get(key)}")
                return False
        return one.keys() == other.keys()
    if isinstance(one, list):
        return len(one) == len(other) and all(is_close(mine, theirs) for mine, theirs in zip(one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return one == other


def read_tensors(content: bytes) -> list[torch.Tensor]:
    """The tensors of safetensors files whose bytes are concatenated."""
    tensors = []
    while content:
        header = int.from_bytes(content[:8], "little")
        described = json.loads(content[8 : 8 + header])
        end = 8 + header + max(entry["data_offsets"][1] for key, entry in described.items() if key != "__metadata__")
        tensors += [tensor for _, tensor in sorted(load(content[:end]).items())]
        content = content[end:]
    return tensors
