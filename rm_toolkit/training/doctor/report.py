"""What `rm-toolkit doctor` prints."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence

from ... import __version__
from ...errors import InputError
from ...output.console import console
from ..plan.report import size
from .abilities import Ability, engines, kernels
from .machine import Machine
from .packages import Package


def print_machine(machine: Machine, has: Callable) -> None:
    """
    Prints the machine, its engines and its kernels.

    Args:
        machine (`Machine`): From [`~rm_toolkit.training.doctor.machine.this_machine`].
        has (`Callable`): Whether a package, by name, is installed.
    """
    memory = f", {size(machine.memory)} of memory" if machine.memory else ""
    console.print(f"rm_toolkit {__version__}, Python {platform.python_version()}, {platform.system()}")
    console.print(f"{machine.cores} CPU core(s){memory}; {_gpus(machine)}")
    _print_abilities("Engines", engines(machine, has))
    _print_abilities("Kernels and precision", kernels(machine, has))


def _gpus(machine: Machine) -> str:
    if not machine.gpus:
        return "no GPU that torch can use"
    kinds = dict.fromkeys(machine.gpus)
    shown = ", ".join(f"{machine.gpus.count(kind)} x {kind}" for kind in kinds)
    return f"{shown}, {size(machine.gpu_memory)} each"


def _print_abilities(title: str, abilities: Sequence[Ability]) -> None:
    console.print(f"\n{title}")
    width = max(len(ability.name) for ability in abilities)
    for ability in abilities:
        mark, what = ("no ", f"needs {ability.missing}") if ability.missing else ("yes", ability.remark)
        console.print(f"  {mark}  {ability.name:<{width}}  {what}".rstrip())


def print_packages(packages: Sequence[Package]) -> None:
    """
    Prints what is missing or of another version, and one line for what is fine.

    Args:
        packages (`Sequence[Package]`): From [`~rm_toolkit.training.doctor.packages.wanted_packages`].
    """
    console.print("\nPackages")
    if not packages:
        console.print(
            "  not known: the toolkit runs from a checkout. `pip install -c constraints.txt -e .` installs it."
        )
    for extra in dict.fromkeys(package.extra for package in packages):
        members = [package for package in packages if package.extra == extra]
        wrong = [package for package in members if not package.fits]
        title = f"extra '{extra}'" if extra else "every run"
        if not wrong:
            listed = ", ".join(f"{package.name} {package.installed}" for package in members)
            console.print(f"  yes  {title}: {listed}")
            continue
        listed = ", ".join(f"{package.name}{package.wanted} ({package.installed or 'missing'})" for package in wrong)
        target = f'".[{extra}]"' if extra else "."
        console.print(f"  no   {title}: needs {listed}; pip install -c constraints.txt -e {target}")


def print_missing(what: str, missing: Sequence[str], note: str = "") -> None:
    """
    Prints what a run is missing.

    Args:
        what (`str`): The recipe, or the launch config.
        missing (`Sequence[str]`): One line each.
        note (`str`): What may be unexpected, though nothing is missing.

    Raises:
        `InputError`: if anything is missing, so that a script sees it in the exit code.
    """
    console.print(f"\n{what}")
    if note:
        console.print(f"  note {note}")
    for line in missing:
        console.print(f"  no   {line}")
    if missing:
        raise InputError(f"{what} cannot run here yet: {len(missing)} thing(s) are missing, as listed above.")
    console.print("  yes  everything that it needs is here")
