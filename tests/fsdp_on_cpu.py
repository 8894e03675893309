"""
Runs FSDP 2 on a CPU, for `test_engines.py`. Without a GPU, Accelerate silently falls back from FSDP to DDP, so its
state is patched here to say FSDP. Everything else is its own code, and PyTorch's `fully_shard` on a gloo mesh.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType


original = AcceleratorState.__init__


def as_fsdp(self: AcceleratorState, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
    """Replaces `AcceleratorState.__init__`, which decides by the kind of device."""
    original(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if fsdp_plugin is not None:
        self.distributed_type = DistributedType.FSDP
        self.fsdp_plugin = fsdp_plugin
        PartialState._shared_state["distributed_type"] = self.distributed_type


if __name__ == "__main__":
    AcceleratorState.__init__ = as_fsdp
    script = Path(__file__).parents[1] / "benchmarks" / "engine_agreement.py"
    sys.argv[0] = str(script)
    runpy.run_path(str(script), run_name="__main__")
