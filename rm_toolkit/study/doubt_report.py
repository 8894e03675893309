"""Results of the search for doubtful labels: the list to review, the judgment of every pair, and a summary."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..evaluation.doubts import (
    DOUBTS_NAME,
    confident_threshold,
    describe_pairs,
    doubted,
    identify,
    list_text,
    probability_of_label,
)
from ..evaluation.metrics import accuracy
from ..evaluation.temperature import fit_temperature
from ..output.folders import replace_text, replaced_file
from ..output.written import put_aside
from .doubt import JudgedPairs


SUMMARY_NAME, PAIRS_NAME = "summary.json", "pairs.parquet"
LEAST_PAIRS_OF_A_FOLD = 20  # for its temperature


@dataclass
class Doubts:
    """
    The doubted pairs of training data.

    Args:
        judged (`list[JudgedPairs]`): Pairs of each fold and dataset.
        p (`list[np.ndarray]`): For each of them the out-of-fold probability of every label.
        threshold (`float`): A label is doubted if p is at most this.
        temperatures (`dict[int, float]`, *optional*): Temperature of each fold, if p is calibrated.
    """

    judged: list[JudgedPairs]
    p: list[np.ndarray]
    threshold: float
    temperatures: dict[int, float] | None = None

    @classmethod
    def find(
        cls, folds: Sequence[Sequence[JudgedPairs]], *, threshold: float | None = None, calibrate: bool = False
    ) -> Doubts:
        """
        Decides which pairs are doubted.

        Args:
            folds (`Sequence`): From [`~rm_toolkit.study.doubt.DoubtRun.run`].
            threshold (`float`, *optional*): Largest p of a doubted label; default: [`confident_threshold`] of all
                pairs.
            calibrate (`bool`): Whether the margins of each fold are divided by a temperature fitted to them, so that
                the models of all folds are calibrated.

        Raises:
            `InputError`: if no temperature fits a fold.
        """
        judged = [own for fold in folds for own in fold]
        temperatures = None
        if calibrate:
            temperatures = {
                fold[0].fold: fit_temperature(
                    np.concatenate([own.margins for own in fold]), f"fold {fold[0].fold + 1}", LEAST_PAIRS_OF_A_FOLD
                )
                for fold in folds
                if fold
            }
        p = [probability_of_label(own.margins / (temperatures[own.fold] if temperatures else 1.0)) for own in judged]
        limit = confident_threshold(np.concatenate(p)) if threshold is None else threshold
        return cls(judged, p, limit, temperatures)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yields a row for each doubted pair, the most contradicted first."""
        lists = [
            describe_pairs(own.pairs, doubted(p, self.threshold), own.margins, p, fold=own.fold + 1)
            for own, p in zip(self.judged, self.p)
        ]
        return heapq.merge(*lists, key=lambda row: row["p"])

    def summary(self) -> dict[str, Any]:
        """Returns counts, out-of-fold accuracy and mean p: in total, by dataset, by tag and by fold."""
        margins = np.concatenate([own.margins for own in self.judged])
        p = np.concatenate(self.p)
        parts: dict[str, dict[str, np.ndarray]] = {"dataset": {}, "domain": {}, "source": {}, "fold": {}}
        start = 0
        for own in self.judged:
            here = np.zeros(len(p), dtype=bool)
            here[start : start + len(own.margins)] = True
            for kind, values in (("dataset", [own.pairs.name]), ("fold", [str(own.fold + 1)])):
                parts[kind][values[0]] = parts[kind].get(values[0], False) | here
            for tag in ("domain", "source"):
                tags = own.pairs.tags.get(tag)
                for value in sorted({v for v in tags if v}) if tags is not None else ():
                    mask = np.zeros(len(p), dtype=bool)
                    mask[start : start + len(own.margins)] = tags == value
                    parts[tag][value] = parts[tag].get(value, False) | mask
            start += len(own.margins)
        return {
            **self._counts(margins, p),
            "threshold": self.threshold,
            **(
                {"temperature_by_fold": {str(k + 1): v for k, v in self.temperatures.items()}}
                if self.temperatures
                else {}
            ),
            **{
                f"by_{kind}": {value: self._counts(margins[mask], p[mask]) for value, mask in own.items()}
                for kind, own in parts.items()
                if kind in ("dataset", "fold") or len(own) > 1
            },
        }

    def _counts(self, margins: np.ndarray, p: np.ndarray) -> dict[str, Any]:
        return {
            "num_pairs": len(p),
            "accuracy": accuracy(margins),
            "mean_p": float(p.mean()),
            "num_doubted": len(doubted(p, self.threshold)),
        }

    def save(self, folder: Path, how: dict[str, Any]) -> dict[str, Any]:
        """
        Writes `doubts.jsonl` (the list to review), `pairs.parquet` (every pair, without texts) and `summary.json`.

        Args:
            folder (`Path`): Where to.
            how (`dict`): Options of the search, for the summary.

        Returns:
            `dict`: Contents of the summary.
        """
        import pyarrow
        import pyarrow.parquet

        rows = [
            {"fold": own.fold + 1, **identify(own.pairs, n), "margin": float(own.margins[n]), "p": float(p[n])}
            for own, p in zip(self.judged, self.p)
            for n in range(len(p))
        ]
        columns = list(dict.fromkeys(name for row in rows for name in row))
        table = pyarrow.table({name: [row.get(name) for row in rows] for name in columns})
        with replaced_file(folder / PAIRS_NAME, "wb") as file:
            pyarrow.parquet.write_table(table, file)
        _keep_reviewed(folder / DOUBTS_NAME, self.rows())
        summary = {"rm_toolkit": __version__, **how, **self.summary()}
        replace_text(folder / SUMMARY_NAME, json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
        return summary


def _keep_reviewed(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Writes a list of pairs; an existing one, which may have been reviewed, is renamed."""
    text = list_text(rows)
    with replaced_file(path) as file:
        file.write(text)
        file.flush()  # a full disk must show before the earlier list is renamed
        if path.is_file() and path.read_bytes() != text.encode():
            put_aside(path)
