"""Which of the packages that this toolkit requires are installed, and in which version."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import Requirement


NAME = "rm-toolkit"


@dataclass(frozen=True)
class Package:
    """
    A package that the toolkit requires.

    Args:
        name (`str`): As on the package index.
        wanted (`str`): The versions that it requires, such as `>=1.16,<2`; empty for any.
        installed (`str`, *optional*): The installed version; `None` if it is not installed.
        extra (`str`, *optional*): The extra that requires it; `None` for what every run needs.
    """

    name: str
    wanted: str
    installed: str | None
    extra: str | None = None

    @property
    def fits(self) -> bool:
        """Whether a version that fits is installed."""
        specifier = Requirement(f"{self.name}{self.wanted}").specifier
        return self.installed is not None and specifier.contains(self.installed, prereleases=True)

    @property
    def state(self) -> str:
        """In words: `works`, `missing`, or that another version is needed."""
        if self.installed is None:
            return "missing"
        return "works" if self.fits else "another version is needed"


def wanted_packages(requirements: Iterable[str] | None = None) -> list[Package]:
    """
    What the metadata of the toolkit require on this system, sorted by extra and name.

    Args:
        requirements (`Iterable[str]`, *optional*): Lines like `trl>=1.16; extra == "x"`. Default: those of the installed
            toolkit; none where it is not installed.
    """
    if requirements is None:
        try:
            requirements = metadata.requires(NAME) or ()
        except metadata.PackageNotFoundError:
            requirements = ()
    found = []
    for requirement in map(Requirement, requirements):
        extra = _extra_of(requirement)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra or ""}):
            found.append(Package(requirement.name, str(requirement.specifier), installed(requirement.name), extra))
    return sorted(found, key=lambda package: (package.extra or "", package.name.lower()))


def installed(name: str) -> str | None:
    """The installed version of a package, or `None`."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _extra_of(requirement: Requirement) -> str | None:
    """The extra of a requirement: the one name with which its marker is true and without which it is false."""
    if requirement.marker is None:
        return None
    named = str(requirement.marker).split("extra == ")
    return named[1].split('"')[1] if len(named) > 1 else None
