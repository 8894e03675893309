"""YAML with string keys and without duplicates; everything that cannot be read is a `YAMLError`."""

from __future__ import annotations

import itertools
import os
import stat
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError, first_line, one_line
from .ranges import is_unicode, shown


MOST_BYTES = 16 * 2**20  # of a settings file
MOST_VALUES = 1_000_000  # counting the values of an alias each time it is used
MOST_DEPTH = 100


class StrictLoader(yaml.SafeLoader):
    """YAML without duplicate keys; the plain loader keeps the last one silently."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """As in the plain loader, up to a depth at which it is still fast."""
        if self.depth > MOST_DEPTH:
            line = self.peek_event().start_mark.line + 1
            raise yaml.YAMLError(f"nested deeper than {MOST_DEPTH} levels (line {line}).")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """As in the plain loader, after a check of the keys."""
        seen = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key_node.tag == "tag:yaml.org,2002:merge":  # `<<: *name`
                continue
            key, line = self.construct_object(key_node, deep=True), key_node.start_mark.line + 1
            if not isinstance(key, str):
                raise yaml.YAMLError(f"the key {shown(key)} is not a string; put it in quotes (line {line}).")
            if key in seen:
                raise yaml.YAMLError(f"the key '{one_line(key, 60)}' is given twice (line {line}).")
            seen.add(key)
        return super().construct_mapping(node, deep=deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """As in the plain loader; errors in numbers and dates (2026-13-45) name the line."""
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, LookupError, AttributeError, ArithmeticError) as error:
            raise yaml.YAMLError(f"a value cannot be read (line {_line(node)}: {first_line(error)}).") from error

    def construct_scalar(self, node: yaml.ScalarNode) -> Any:
        """As in the plain loader; refuses text that UTF-8 cannot encode."""
        value = super().construct_scalar(node)
        if isinstance(value, str) and not is_unicode(value):
            raise yaml.YAMLError(f"a lone surrogate such as \\ud800, which is not a character (line {_line(node)}).")
        return value

    def get_single_data(self) -> Any:
        """As in the plain loader, with bounded number and depth of values."""
        node = self.get_single_node()
        if node is None:
            return None
        _count(node, {}, [])
        return self.construct_document(node)


def strict_yaml(text: str) -> Any:
    """
    Parses a YAML text.

    Raises:
        `yaml.YAMLError`: for any other text.
    """
    try:
        return yaml.load(text, Loader=StrictLoader)
    except yaml.YAMLError:
        raise
    except RecursionError:
        raise yaml.YAMLError("nested too deeply.") from None


def read_text(path: str | os.PathLike, what: str, remedy: str) -> str:
    """
    Returns the text of a small settings file, without a byte-order mark.

    Args:
        path (`str` or `os.PathLike`): The file.
        what (`str`): Its kind, for the messages, such as "the recipe".
        remedy (`str`): What to do if it cannot be read: a sentence.

    Raises:
        `InputError`: if it does not exist, is not a regular file (a pipe or a device may never end), is too long or
            not UTF-8.
    """
    where = one_line(os.fspath(path), 300)
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise InputError(f"{what} {where} cannot be read: it is a folder. {remedy}")
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{what} {where} cannot be read: it is a pipe or a device. {remedy}")
        if status.st_size > MOST_BYTES:
            raise InputError(f"{what} {where} has {status.st_size:,} bytes, but at most {MOST_BYTES:,}. {remedy}")
        return Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{where}, line {line}: not UTF-8 (byte 0x{error.object[error.start]:02x}). Save the file in UTF-8."
        ) from error
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{what} {where} cannot be read: {error.strerror or error}. {remedy}") from error
    except ValueError as error:  # a name with NUL in it
        raise InputError(f"{what} {where} cannot be read: {first_line(error)}. {remedy}") from error


def read_yaml(path: str | os.PathLike, what: str, remedy: str) -> dict[str, Any]:
    """
    Returns the mapping in a YAML file.

    Args:
        path, what, remedy: As of [`read_text`].

    Raises:
        `InputError`: if it cannot be read, is not YAML or is not a mapping.
    """
    text = read_text(path, what, remedy)
    try:
        values = strict_yaml(text)
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {said(error)}") from error
    if values is None:
        raise InputError(f"{path} is empty. {remedy}")
    if not isinstance(values, dict):
        raise InputError(f"{path} must have `name: value` lines, but is a {type(values).__name__}. {remedy}")
    return values


def said(error: yaml.YAMLError) -> str:
    """Returns the message of an error of YAML on one line."""
    return one_line(" ".join(str(error).split()), 400)


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1


def _count(node: yaml.Node, counted: dict[int, int], above: list[int]) -> int:
    """Number of values of a node; refuses one that contains itself."""
    key = id(node)
    if key in above:
        raise yaml.YAMLError(f"a value that contains itself (by an alias, line {_line(node)}).")
    if key not in counted:
        inner: Any = node.value if isinstance(node, yaml.CollectionNode) else ()
        if isinstance(node, yaml.MappingNode):
            inner = itertools.chain.from_iterable(inner)
        counted[key] = 1 + sum(_count(entry, counted, [*above, key]) for entry in inner)
        if counted[key] > MOST_VALUES:
            raise yaml.YAMLError(f"aliases that expand to more than {MOST_VALUES:,} values (line {_line(node)}).")
    return counted[key]
