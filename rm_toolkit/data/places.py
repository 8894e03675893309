"""The place of a record, so that a later error can name the file and the row."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InputError, one_line


MOST_OF_A_PROBLEM = 700  # characters: it quotes keys and values of the data


@dataclass(frozen=True)
class Place:
    """The place of a record: `item` of a JSON array, `line` of JSON Lines, `row` of a table; counted from 1."""

    file: str
    unit: str
    number: int
    null = "null"  # what a missing value is called here; no field

    @property
    def where(self) -> str:
        """The place within its file."""
        return f"{self.unit} {self.number}"

    def error(self, problem: str, remedy: str | None = None) -> InputError:
        """
        Returns (does not raise) the error that names this place.

        Args:
            problem (`str`): What is wrong, a sentence.
            remedy (`str`, *optional*): What to do; default: fix or remove the record.
        """
        if remedy is None:
            remedy = f"Fix or remove the {self.unit}, or pass --skip-invalid."
        problem = one_line(problem, MOST_OF_A_PROBLEM)
        return InputError(f"{self.file}, {self.where}: {problem} {remedy.strip()}".strip())


class RowPlace(Place):
    """A row of a dataset that a user made: no flag of ours can leave it out."""

    def error(self, problem: str, remedy: str | None = None) -> InputError:
        """As in [`Place`]."""
        return super().error(problem, "Fix or remove the row." if remedy is None else remedy)
