"""Creates files that no command can read: broken JSON, YAML, tables and compressed files, pipes, links and so on."""

from __future__ import annotations

import gzip
import json
import lzma
import os
from pathlib import Path


DEEP = 100_000
PAIR = {"prompt": "Name a river.", "chosen": "The Elbe.", "rejected": "A hat."}
CHAT = {
    "prompt": [{"role": "user", "content": "Name a river."}],
    "chosen": [{"role": "assistant", "content": "The Elbe."}],
    "rejected": [{"role": "assistant", "content": "A hat."}],
}


def mistaken_data(folder: Path, deep: int = DEEP) -> dict[str, Path]:
    """
    Creates data files that no command can read, and pipes, folders and links in place of files.

    Args:
        folder (`Path`): An empty folder.
        deep (`int`): Levels of nesting.

    Returns:
        `dict[str, Path]`: The defect and its file.
    """
    nest = "[" * deep + "]" * deep
    call = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "NEST"}}]
    called = {**CHAT, "chosen": [{"role": "assistant", "content": "", "tool_calls": call}]}
    made = {}
    for name, content in {**_json_contents(nest), **_packed_contents(), **_csv_contents()}.items():
        path = folder / name
        path.write_bytes(content)
        made[Path(name).stem.split(".")[0]] = path
    made["arguments of a tool call nested 100,000 deep"] = folder / "tools.jsonl"
    (folder / "tools.jsonl").write_text((json.dumps(called) + "\n").replace('"NEST"', nest) * 2)
    made["tools nested 100,000 deep in a string"] = folder / "stored.jsonl"
    (folder / "stored.jsonl").write_text((json.dumps({**CHAT, "tools": nest}) + "\n") * 2)
    return {**made, **_no_files(folder)}


def _json_contents(nest: str) -> dict[str, bytes]:
    """Broken JSON and JSON Lines: file name -> content. `nest` is an array nested too deep."""
    row, deep = json.dumps(PAIR), len(nest) // 2
    return {
        "nested 100,000 deep, an array.json": nest.encode(),
        "nested 100,000 deep, in a line.jsonl": f'{row}\n{{"prompt": {nest}}}\n{row}\n'.encode(),
        "nested 100,000 deep, first line.jsonl": f'{{"prompt": {nest}}}\n{row}\n'.encode(),
        "nested 100,000 deep, objects.json": b'{"a":' * deep + b"1" + b"}" * deep,
        "nested 100,000 deep, content of a message.jsonl": (
            json.dumps(CHAT).replace('"The Elbe."', nest) + "\n" + json.dumps(CHAT)
        ).encode(),
        "nested 100,000 deep, never closed.json": b"[" * deep,
        "a number of 10,000 digits.jsonl": f'{row[:-1]}, "margin": {"9" * 10_000}}}\n{row}\n'.encode(),
        "a number of 10,000 digits, array.json": f'[{row[:-1]}, "margin": {"9" * 10_000}}}]'.encode(),
        "empty.jsonl": b"",
        "only blanks.jsonl": b" \n\t\n  ",
        "only a byte-order mark.jsonl": b"\xef\xbb\xbf",
        "not UTF-8.jsonl": row.replace("Elbe", "\xd6lbe").encode("latin-1"),
        "UTF-16.json": json.dumps([PAIR]).encode("utf-16"),
        "NUL bytes.jsonl": b"\0" * 100,
        "NUL in the middle.jsonl": f"{row}\n\0\0\0\n{row}\n".encode(),
        "a key given twice.jsonl": f'{row[:-1]}, "chosen": "Another."}}\n{row}\n'.encode(),
        "a key given twice, array.json": f'[{row[:-1]}, "chosen": "Another."}}]'.encode(),
        "a lone surrogate.jsonl": f"{row}\n{row}\n".replace("Elbe", "\\ud800").encode(),
        "an array in the line.jsonl": b"[1, 2]\n[3]\n",
        "only numbers.json": b"[1, 2, 3]",
        "null.json": b"null",
        "cut short.json": json.dumps([PAIR, PAIR]).encode()[:-20],
    }


def _packed_contents() -> dict[str, bytes]:
    """Damaged compressed files and Parquet files: file name -> content."""
    row = json.dumps(PAIR)
    return {
        "gzip cut short.jsonl.gz": gzip.compress((row + "\n").encode() * 999)[:-20],
        "gzip with damage.jsonl.gz": _damaged(gzip.compress(os.urandom(9999))),
        "xz.jsonl.xz": lzma.compress(row.encode()),
        "Zstandard.jsonl.zst": b"\x28\xb5\x2f\xfd" + b"\0" * 40,
        "Parquet, empty.parquet": b"",
        "Parquet, no end.parquet": b"PAR1" + b"\0" * 100,
        "Parquet, damage.parquet": _damaged(_parquet()),
    }


def _csv_contents() -> dict[str, bytes]:
    """Broken CSV tables: file name -> content."""
    return {
        "a table, not UTF-8.csv": "prompt,chosen,rejected\n\xd6,b,c\n".encode("latin-1"),
        "a table, empty.csv": b"",
        "a table, blanks.csv": b"\n\n\n",
        "a table, a column twice.csv": b"prompt,chosen,chosen\na,b,c\n",
        "a table, more cells than columns.csv": b"prompt,chosen,rejected\na,b,c,d,e\n",
        "a table, an open quote.csv": b'prompt,chosen,rejected\n"a,b,c\nd,e,f\n',
    }


def mistaken_yaml(folder: Path, deep: int = DEEP) -> dict[str, Path]:
    """
    Creates YAML files that no recipe, study or launch config can be read from; otherwise as [`mistaken_data`].

    Args:
        folder (`Path`): An empty folder.
        deep (`int`): Levels of nesting.

    Returns:
        `dict[str, Path]`: The defect and its file.
    """
    bomb = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
    )
    texts = {
        "nested 100,000 deep": b"a: " + b"[" * deep + b"]" * deep,
        "nested 100,000 deep, mappings": b"{a: " * deep + b"}" * deep,
        "nested 100,000 deep, never closed": b"a: " + b"[" * deep,
        "a number of 10,000 digits": b"seed: " + b"9" * 10_000,
        "empty": b"",
        "only blanks": b"  \n \n",
        "only a byte-order mark": b"\xef\xbb\xbf",
        "only a comment": b"# nothing\n",
        "not UTF-8": b"output_dir: \xd6l",
        "UTF-16": "seed: 1\n".encode("utf-16"),
        "NUL": b"seed: 1\0\n",
        "an alias of itself": b"a: &a [*a]\n",
        "a mapping that holds itself": b"a: &a {b: *a}\n",
        "a bomb of aliases": bomb.encode(),
        "an alias of nothing": b"a: *b\n",
        "a list as key": b"? [a, b]\n: 1\n",
        "a mapping as key": b"? {a: b}\n: 1\n",
        "a number as key": b"3: 1\n",
        "a null key": b": 1\n",
        "a truth value as key": b"on: 1\n",
        "a key given twice": b"seed: 1\nseed: 2\n",
        "a key given twice, deeper": b"tiny_base: {hidden_size: 8, hidden_size: 9}\n",
        "no such day": b"chat_date: 2026-13-45\n",
        "a lone surrogate": b'output_dir: "a\\ud800"\n',
        "an object of Python": b"a: !!python/object/apply:os.system [ls]\n",
        "a tag of an empty number": b"seed: !!int ''\n",
        "a tag of no truth value": b"seed: !!bool x\n",
        "two documents": b"seed: 1\n---\nseed: 2\n",
        "a list": b"- a\n- b\n",
        "a text": b"hello\n",
        "a tab": b"a:\n\tb: 1\n",
    }
    for name, content in texts.items():
        (folder / f"{name}.yaml").write_bytes(content)
    return {name: folder / f"{name}.yaml" for name in texts} | _no_files(folder)


def _no_files(folder: Path) -> dict[str, Path]:
    """Creates what is not a regular file: a folder, a pipe, broken links; adds paths that do not exist."""
    (folder / "a folder.jsonl").mkdir()
    os.mkfifo(folder / "a pipe.jsonl")
    (folder / "a link to nothing.jsonl").symlink_to("nowhere")
    (folder / "a link to itself.jsonl").symlink_to("a link to itself.jsonl")
    return {
        "a folder": folder / "a folder.jsonl",
        "a pipe that nobody writes": folder / "a pipe.jsonl",
        "a link to nothing": folder / "a link to nothing.jsonl",
        "a link to itself": folder / "a link to itself.jsonl",
        "an endless device": Path("/dev/zero"),
        "not there": folder / "nowhere.jsonl",
        "a name of 5,000 characters": folder / ("x" * 5000),
    }


def _damaged(content: bytes) -> bytes:
    """Inverts 60 bytes in the middle."""
    middle = len(content) // 2
    return content[:middle] + bytes(255 - byte for byte in content[middle : middle + 60]) + content[middle + 60 :]


def _parquet() -> bytes:
    import pyarrow
    import pyarrow.parquet

    sink = pyarrow.BufferOutputStream()
    rows = [{**PAIR, "prompt": f"{PAIR['prompt']} {number}"} for number in range(999)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()
