"""Token ids on disk: memory-mapped if large, readable by numpy, and never half-written when the disk is full."""

from __future__ import annotations

import tempfile

import numpy as np
import pytest

from rm_toolkit.batches import mapped_arrays, token_spool
from rm_toolkit.batches.mapped_arrays import read_arrays, write_arrays
from rm_toolkit.batches.token_spool import TokenSpool


ARRAYS = {"ids": np.arange(5000, dtype=np.int32), "eos": np.array(2), "x": np.arange(3.0), "flag": np.ones(99, bool)}


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setattr(mapped_arrays, "MAPPED_BYTES", 1000)
    with (tmp_path / "a.npz").open("wb") as file:
        write_arrays(file, ARRAYS)
    return tmp_path / "a.npz"


def test_large_arrays_are_mapped_and_small_ones_read(path):
    found = read_arrays(path)
    assert list(found) == list(ARRAYS)
    for name, values in ARRAYS.items():
        assert found[name].dtype == values.dtype
        np.testing.assert_array_equal(found[name], values)
    assert isinstance(found["ids"].base, np.memmap) and found["ids"].flags.aligned
    assert not isinstance(found["flag"].base, np.memmap)


def test_what_is_written_into_a_mapped_array_stays_in_the_process(path):
    read_arrays(path)["ids"][0] = 7
    assert read_arrays(path)["ids"][0] == 0


def test_numpy_reads_what_is_written_and_the_other_way_round(path, tmp_path):
    with np.load(path) as stored:
        np.testing.assert_array_equal(stored["ids"], ARRAYS["ids"])
    np.savez(tmp_path / "b.npz", **ARRAYS)
    for name, values in read_arrays(tmp_path / "b.npz").items():
        np.testing.assert_array_equal(values, ARRAYS[name])


@pytest.mark.parametrize("full_after", [None, 0, 1])
def test_ids_are_the_same_wherever_they_wait(tmp_path, monkeypatch, full_after):
    monkeypatch.setattr(token_spool, "TOKENS_HELD", 10)
    opened = tempfile.TemporaryFile
    if full_after is not None:

        class Full:
            def __init__(self, file):
                self.file, self.writes = file, 0

            def flush(self):
                self.writes += 1
                if self.writes > full_after:
                    raise OSError(28, "No space left on device")
                self.file.flush()

            def __getattr__(self, name):
                return getattr(self.file, name)

        class array_(token_spool.array):
            def tofile(self, file):
                super().tofile(file.file)

        monkeypatch.setattr(token_spool, "array", array_)
        monkeypatch.setattr(token_spool.tempfile, "TemporaryFile", lambda dir: Full(opened(dir=dir)))
    spool, alone = TokenSpool(tmp_path), TokenSpool()
    for begin in range(0, 33, 3):
        for one in (spool, alone):
            one.extend([*range(begin, begin + 3)])
    assert len(spool) == 33
    assert spool.array().tolist() == alone.array().tolist() == list(range(33))
    assert list(tmp_path.iterdir()) == []


def test_no_ids_are_an_empty_array(tmp_path):
    assert TokenSpool(tmp_path).array().shape == (0,)


def test_a_number_comes_back_as_a_number(tmp_path):
    """`np.ascontiguousarray` would turn it into an array with one number, which messages cannot format."""
    path = tmp_path / "numbers.npz"
    with path.open("wb") as file:
        write_arrays(file, {"count": np.array(7), "ids": np.arange(3)})
    found = read_arrays(path)
    assert found["count"].shape == () and found["count"].item() == 7 and found["ids"].tolist() == [0, 1, 2]
