"""Interpolated weights, worked by hand, and files written one tensor at a time."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from rm_toolkit.errors import InputError
from rm_toolkit.merging.interpolation import interpolate, write_like


def test_weights_are_those_of_the_customized_models():
    general, law, art = torch.tensor([1.0, 0.0]), torch.tensor([5.0, 0.0]), torch.tensor([1.0, 10.0])
    assert interpolate(general, [law], [0.25]).tolist() == [2.0, 0.0]
    assert interpolate(general, [law, art], [0.25, 0.5]).tolist() == [2.0, 5.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_0_and_1_give_the_sources_bit_by_bit(dtype):
    general, customized = (torch.randn(1000, generator=torch.Generator().manual_seed(k)).to(dtype) for k in (0, 1))
    general[0], customized[0] = -0.0, 0.0
    general[1] = 3e4
    for weight, expected in ((0.0, general), (1.0, customized)):
        found = interpolate(general, [customized], [weight])
        assert found.dtype == dtype and torch.equal(found.view(torch.uint8), expected.view(torch.uint8))


def test_what_is_the_same_in_both_stays_the_same():
    tensor = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    for weight in (0.1, 0.3, 0.7, 0.9):
        assert torch.equal(interpolate(tensor, [tensor.clone()], [weight]), tensor)


def test_half_precision_is_computed_in_fp32():
    general, customized = torch.tensor([256.0], dtype=torch.bfloat16), torch.tensor([258.0], dtype=torch.bfloat16)
    assert interpolate(general, [customized], [0.5]).item() == 257.0  # which bf16 cannot represent
    large = torch.tensor([60000.0], dtype=torch.float16)
    assert interpolate(large, [-large], [0.5]).item() == 0.0  # the difference would overflow fp16


def test_a_file_gets_the_layout_and_dtypes_of_another(tmp_path):
    tensors = {
        "b": torch.arange(6, dtype=torch.float32).reshape(2, 3),
        "a": torch.tensor(2.0, dtype=torch.bfloat16),
        "empty": torch.zeros(0, 4),
        "number": torch.tensor([7, 8]),
    }
    save_file(tensors, tmp_path / "in.safetensors", metadata={"format": "pt"})
    write_like(tmp_path / "in.safetensors", tmp_path / "same.safetensors", tensors.__getitem__)
    assert (tmp_path / "same.safetensors").read_bytes() == (tmp_path / "in.safetensors").read_bytes()
    write_like(tmp_path / "in.safetensors", tmp_path / "out.safetensors", lambda name: tensors[name].double() + 1)
    found = load_file(tmp_path / "out.safetensors")
    assert found["b"].tolist() == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]] and found["empty"].shape == (0, 4)
    assert found["a"].item() == 3.0 and found["a"].dtype == torch.bfloat16
    assert found["number"].tolist() == [8, 9] and found["number"].dtype == torch.int64
    with pytest.raises(InputError, match="has a size that differs from the computed one"):
        write_like(tmp_path / "in.safetensors", tmp_path / "out.safetensors", lambda name: torch.zeros(1))


MEASURE = """
import sys, resource
from functools import partial
from pathlib import Path
from rm_toolkit.merging.interpolation import interpolate, read_tensor, write_like
folder = Path(sys.argv[1])
one, two = folder / "0.safetensors", folder / "1.safetensors"
def between(name):
    return interpolate(read_tensor(one, name), [read_tensor(two, name)], [0.5])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
write_like(two, folder / "out.safetensors", between)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss counts KiB on Linux")
@pytest.mark.slow
def test_memory_is_that_of_the_largest_tensor(tmp_path):
    """Two files of 128 MiB with 64 tensors of 2 MiB: a reader that keeps what it has read would need 256 MiB."""
    for k in range(2):
        tensors = {f"layer{n}": torch.full((512, 1024), float(n + k)) for n in range(64)}
        save_file(tensors, tmp_path / f"{k}.safetensors")
    del tensors
    result = subprocess.run([sys.executable, "-c", MEASURE, str(tmp_path)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 48 * 1024
    assert load_file(tmp_path / "out.safetensors")["layer7"].unique().tolist() == [7.5]
