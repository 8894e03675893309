"""Attacks on model folders: the damage, its file and key, and what the error must name."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from file_damage import (
    NESTED,
    WRONG_FILES,
    a_dangling_link,
    a_device,
    a_folder,
    a_pipe,
    change,
    gigantic,
    remove,
    truncated,
    write,
)
from folder_values import NAN, UNCLOSED, WRONG_TEMPLATES, WRONG_VALUES


ADAPTER = "adapter"


@dataclass(frozen=True)
class Attack:
    """
    One defect of a model folder.

    Args:
        name (`str`): The file and its defect.
        file (`str`): The file, relative to the model folder.
        harm (`Callable`): Damages the file at the path that it is given.
        key (`str`, *optional*): Key that the error must name besides the file.
        harmless (`bool`): Whether all commands may work as usual.
        also (`tuple[str, ...]`): Words that the error may use instead of the file's name.
        unread_by (`tuple[str, ...]`): Commands that may work as usual, because they do not read that key.
    """

    name: str
    file: str
    harm: Callable[[Path], Any]
    key: str | None = None
    harmless: bool = False
    also: tuple[str, ...] = ()
    unread_by: tuple[str, ...] = ()

    def apply(self, folder: Path) -> None:
        """Damages the file in a copy of the model folder."""
        self.harm(folder / self.file)

    @property
    def of_adapter(self) -> bool:
        """Whether the attack is on `adapter/`, which is a model folder of its own."""
        return self.file.startswith(f"{ADAPTER}/")


JSON_FILES = (
    "config.json",
    "rm_toolkit.json",
    "tokenizer_config.json",
    "tokenizer.json",
    f"{ADAPTER}/adapter_config.json",
)
# Not needed if the files above exist: a command may ignore them, but must not crash on them.
LEGACY_FILES = ("special_tokens_map.json", "added_tokens.json", "generation_config.json")
# Files without which a folder is still a model.
OPTIONAL = {"rm_toolkit.json", *LEGACY_FILES}
# (Key, value) -> what the error may name instead of the key, where that is clear enough.
NAMED_BY = {
    ("num_attention_heads", "3"): "attention heads",
    ("rope_parameters", str({"rope_type": "no-such-type", "rope_theta": 1e4})): "rope_type",
    ("_attn_implementation", "no-such-kernel"): "attn_implementation",
}
# Keys that do no harm: no code from the folder runs, or the library ignores them.
HARMLESS = ("auto_mapping", "unknown_setting")
# (File, key or defect) -> commands that do not read it.
UNREAD = {
    ("config.json", "id2label"): ("sft",),  # a language model has no labels
    ("config.json", "_attn_implementation"): ("grft", "crft"),  # they choose one themselves
    ("tokenizer_config.json", "is missing"): (
        "sft",
    ),  # many base models have none; only a saved reward model must have it
    ("chat_template.jinja", "is empty"): ("inspect",),  # it uses the default template instead, as training does
    (f"{ADAPTER}/adapter_config.json", "base_model_name_or_path"): ("routed",),  # --model is used, with a notice
}
# The log of a run, which `watch` reads. If it is not a regular file, `watch` reads the last checkpoint's instead.
LOG, OF_MISSING = (
    "training_log.json",
    ("is missing", "is a dangling link", "is a folder", "is a pipe", "is an endless device"),
)
# Wrong values in tokenizer.json that the tokenizers library refuses without saying where they are.
UNNAMED = {"{}", json.dumps({"type": "no-such-type"}), json.dumps(UNCLOSED), json.dumps([["a", "zz-not-there"]])}
# An error may name the tensor instead, as it may be in one of several files.
OF_TENSORS = ("score.weight", "embed_tokens", "reward head", "q_proj", "config.json", "not finite")
# An error may say this instead of the file's name, as a template may also be in tokenizer_config.json.
OF_TEMPLATES = ("chat template",)


def header(entries: dict[str, Any] | bytes, data: bytes = b"", length: int | None = None) -> bytes:
    """Content of a safetensors file with this header, and, if given, a wrong `length` of the header."""
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def rewritten(edit: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """A function that edits the tensors (name -> tensor) of a safetensors file."""

    def harm(path: Path) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(path)
        edit(tensors)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata={"format": "pt"})

    return harm


def _first(tensors: dict[str, Any], part: str) -> str:
    return next(name for name in tensors if part in name)


def _wrong_shape(part: str) -> Callable[[dict[str, Any]], None]:
    def edit(tensors: dict[str, Any]) -> None:
        name = _first(tensors, part)
        tensors[name] = tensors[name].repeat(*[2] * tensors[name].dim())

    return edit


def _wrong_dtype(tensors: dict[str, Any]) -> None:
    import torch

    for name in tensors:
        tensors[name] = torch.zeros_like(tensors[name], dtype=torch.int32)


def _without(part: str) -> Callable[[dict[str, Any]], None]:
    return lambda tensors: tensors.pop(_first(tensors, part))


def _not_finite(part: str) -> Callable[[dict[str, Any]], None]:
    return lambda tensors: tensors[_first(tensors, part)].fill_(NAN)


def _with_more(tensors: dict[str, Any]) -> None:
    import torch

    tensors["not.of.this.model"] = torch.zeros(3)


def _pickled(path: Path) -> None:
    path.rename(path.with_name(path.name.replace("model.safetensors", "pytorch_model.bin")))


def indexed(index: Any) -> Callable[[Path], None]:
    """A function that replaces the weights by an index file with this content."""

    def harm(path: Path) -> None:
        path.rename(path.with_name("model-00001-of-00001.safetensors"))
        target = path.with_name("model.safetensors.index.json")
        target.write_bytes(index if isinstance(index, bytes) else json.dumps(index).encode())

    return harm


def indexed_outside(path: Path) -> None:
    """An index that leads out of the folder, to a file that is there."""
    outside = path.parent.parent / "beside.safetensors"
    shutil.copy(path, outside)
    from safetensors import safe_open

    with safe_open(path, framework="pt") as handle:
        names = list(handle.keys())
    path.unlink()
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "../beside.safetensors")}
    path.with_name("model.safetensors.index.json").write_text(json.dumps(index))


SCORE, NORM = "score", "norm"
OVERLAP = {name: {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} for name in ("a", "b")}
WRONG_WEIGHTS: dict[str, Callable[[Path], Any]] = {
    "is missing": remove,
    "is empty": write(b""),
    "is cut off": truncated,
    "has a header of 2**60 bytes": write(header(b"{}", length=1 << 60)),
    "has a header that is not JSON": write(header(b"not json")),
    "has a header that is a list": write(header(b"[]")),
    "has a header nested 100,000 deep": write(header(NESTED)),
    "has overlapping tensors": write(header(OVERLAP, b"\0" * 16)),
    "has a tensor of negative size": write(header({"a": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}}, b"\0" * 16)),
    "has a tensor of 2**62 values": write(header({"a": {"dtype": "F32", "shape": [1 << 31, 1 << 31], "data_offsets": [0, 16]}}, b"\0" * 16)),
    "has a tensor of an unknown type": write(header({"a": {"dtype": "F7", "shape": [4], "data_offsets": [0, 16]}}, b"\0" * 16)),
    "has no tensors": write(header({})),
    "is a folder": a_folder,
    "is a dangling link": a_dangling_link,
    "is a pipe": a_pipe,
    "is an endless device": a_device,
    "has 64 GB": gigantic,
    "is pickled": _pickled,
    "is really a pickle": write(pickle.dumps({"score.weight": [1.0]})),
    "has integers for weights": rewritten(_wrong_dtype),
}  # fmt: skip
WRONG_MODEL_WEIGHTS: dict[str, Callable[[Path], Any]] = {
    "lacks the reward head": rewritten(_without(SCORE)),
    "lacks a layer's weight": rewritten(_without("q_proj")),
    "has a reward head of the wrong shape": rewritten(_wrong_shape(SCORE)),
    "has an embedding of the wrong shape": rewritten(_wrong_shape("embed")),
    "has a reward head that is not finite": rewritten(_not_finite(SCORE)),
    "has a layer that is not finite": rewritten(_not_finite("q_proj")),
    "is an index that leads outside": indexed_outside,
    "is an index of what is not there": indexed({"metadata": {}, "weight_map": {"score.weight": "nowhere.safetensors"}}),
    "is an index without a map": indexed({"metadata": {}}),
    "is an index whose map is a list": indexed({"weight_map": [1]}),
    "is an index whose map holds numbers": indexed({"weight_map": {"score.weight": 7}}),
    "is an index that is not JSON": indexed(b"{"),
    "is an index nested 100,000 deep": indexed(NESTED),
}  # fmt: skip


def attacks() -> list[Attack]:
    """Every attack on a model folder, in the order of its files."""
    found = []
    for file in (*JSON_FILES, *LEGACY_FILES):
        for what, harm in WRONG_FILES.items():
            if what == "is missing" and file in LEGACY_FILES:
                continue
            unread = UNREAD.get((file, what), ())
            found.append(
                Attack(
                    f"{file} {what}", file, harm, harmless=file in OPTIONAL and what == "is missing", unread_by=unread
                )
            )
        for keys, values in WRONG_VALUES.get(file, []):
            (name, value), where = *values.items(), "".join(f"{key}." for key in keys)
            said = "missing" if value is ... else json.dumps(value)
            said = said if len(said) < 60 else f"{said[:57]}…"
            harmless = (
                name in HARMLESS or value == "NoSuchTokenizer" or (name == "auto_map" and isinstance(value, dict))
            )
            key = NAMED_BY.get((name, str(value)), name)
            if file == "tokenizer.json" and (json.dumps(value) in UNNAMED if value is not ... else False):
                key = None
            harm, unread = change(*keys, **values), UNREAD.get((file, name), ())
            found.append(Attack(f"{file}: {where}{name} is {said}", file, harm, key, harmless, unread_by=unread))
    for file in ("model.safetensors", "lm_head/model.safetensors", f"{ADAPTER}/adapter_model.safetensors"):
        wrong = WRONG_WEIGHTS | (WRONG_MODEL_WEIGHTS if file == "model.safetensors" else {})
        optional = file == "lm_head/model.safetensors"
        found += [Attack(f"{file} {what}", file, harm, None, optional, OF_TENSORS) for what, harm in wrong.items()]
    found += [Attack(f"{LOG} {what}", LOG, harm) for what, harm in WRONG_FILES.items() if what not in OF_MISSING]
    file = "chat_template.jinja"
    for what, content in WRONG_TEMPLATES.items():
        unread = UNREAD.get((file, what), ())
        found.append(Attack(f"{file} {what}", file, write(content), also=OF_TEMPLATES, unread_by=unread))
    for what in ("is a folder", "is a dangling link", "is a pipe", "is an endless device", "has 64 GB"):
        found.append(Attack(f"{file} {what}", file, WRONG_FILES[what]))
    return found
