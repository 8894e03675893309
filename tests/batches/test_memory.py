"""Input may be larger than memory: the peak does not grow with the file."""

import json
import subprocess
import sys

import pytest


# Only anonymous memory counts, which a process cannot give back; the mapped Arrow files of `datasets` do not.
WATCH = """
import re, sys, threading, time
import datasets
from rm_toolkit.data import build

def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024

peak, done = anonymous(), False
start = peak

def watch():
    global peak
    while not done:
        peak = max(peak, anonymous())
        time.sleep(0.005)

datasets.disable_progress_bars()
thread = threading.Thread(target=watch)
thread.start()
source, path, output, cache = sys.argv[1:]
result = build.build(source, [path], build.BuildOptions(cache_dir=cache))
build.save(result, build.Path(output))
done = True
thread.join()
print(sum(map(len, result.datasets.values())), peak - start)
"""

ROWS, TEXT = 36_000, 2_000


def write_jsonl(path):
    with open(path, "w", encoding="utf-8") as file:
        for n in range(ROWS):
            file.write(
                json.dumps(
                    {"prompt": f"{n} " * 20, "chosen": f"{n}a " * (TEXT // 7), "rejected": f"{n}b " * (TEXT // 7)}
                )
                + "\n"
            )


def write_parquet(path):
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema([(name, pyarrow.string()) for name in ("prompt", "chosen", "rejected")])
    with pyarrow.parquet.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        for start in range(0, ROWS, 2000):
            numbers = range(start, start + 2000)
            columns = {"prompt": [f"{n} " * 20 for n in numbers]}
            columns |= {name: [f"{n}{name[0]} " * (TEXT // 7) for n in numbers] for name in ("chosen", "rejected")}
            writer.write_table(pyarrow.table(columns, schema=schema))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
@pytest.mark.parametrize("write_rows", [write_jsonl, pytest.param(write_parquet, marks=pytest.mark.slow)])
def test_peak_memory_stays_far_below_the_size_of_the_file(tmp_path, write_rows):
    path = tmp_path / f"rows.{write_rows.__name__.removeprefix('write_')}"
    write_rows(path)
    size = path.stat().st_size / 2**20
    assert size > 120
    command = [sys.executable, "-c", WATCH, "preference", path, tmp_path / "out", tmp_path / "cache"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows, growth = done.stdout.split()
    print(f"{write_rows.__name__}: file {size:.0f} MiB, peak +{float(growth):.0f} MiB")
    assert int(rows) == ROWS
    assert float(growth) < 75
