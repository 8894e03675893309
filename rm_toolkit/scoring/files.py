"""Rewards for a file of any size: read window by window, written in order, resumed where it stopped."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from .. import __version__
from ..data.messages import TEMPLATE_COLUMNS
from ..data.records import GZIP_MAGIC, Place, RecordFile, read_records
from ..errors import InputError
from ..models.adapter_files import base_of_adapter
from ..models.files import ADAPTER_FOLDER, LM_HEAD_FOLDER, list_folder
from ..models.hub_files import find_commit, split_revision
from ..output.partial import PartialOutput
from ..output.progress import no_bar
from .rows import Row, ScoreOptions, line, read_row
from .scorer import RewardScorer


# A window is sorted and tokenized at once: this many rows, or fewer if they reach this size: characters of their texts
# plus bytes of their other columns, which are copied to the output.
WINDOW_SIZE = 32_000_000
# Rows of larger files are not counted beforehand: the bar then shows only the rate.
COUNTED_BYTES = 4 << 30


@dataclass
class ScoreSummary:
    """The result of a run; a resumed run counts earlier rows too."""

    rows: int = 0
    completions: int = 0
    invalid: int = 0
    resumed_at: int = 0
    total: float = 0.0
    squares: float = 0.0
    first_invalid: list[str] = field(default_factory=list)

    @property
    def mean(self) -> float:
        """Mean reward."""
        return self.total / max(1, self.completions)

    @property
    def std(self) -> float:
        """Standard deviation of the rewards."""
        return max(0.0, self.squares / max(1, self.completions) - self.mean**2) ** 0.5


def score_file(
    scorer: RewardScorer,
    model_identity: str,
    source: RecordFile,
    output: Path,
    options: ScoreOptions,
    *,
    overwrite: bool = False,
    show_progress: bool = True,
) -> ScoreSummary:
    """
    Writes every row of a file with the rewards of its completions, as JSON Lines.

    Args:
        scorer (`RewardScorer`): The model.
        model_identity (`str`): From [`model_identity`]; must be equal for a run to be resumed.
        source (`RecordFile`): JSON Lines (gzipped or not), JSON, Parquet, or a saved dataset.
        output (`Path`): Gets its name when it is complete; until then it is `NAME.partial`.
        options (`ScoreOptions`): What is read.
        overwrite (`bool`): Whether an existing output, or a partial one of another run, is replaced.
        show_progress (`bool`): Whether to draw a progress bar.

    Returns:
        `ScoreSummary`: Counts, and mean and standard deviation of the rewards.

    Raises:
        `InputError`: naming file and row that cannot be used; rows written before it are kept for resuming.
    """
    run = {
        "input": source.fingerprint(),
        "model": model_identity,
        "prompt_column": options.prompt_column,
        "completion_column": options.completion_column,
        "domain_column": options.domain_column,
        "domain": options.domain,
        "reward_column": options.reward_column,
        "template": options.template,
        "window": options.window,
        **({} if scorer.chat_date is None else {"chat_date": scorer.chat_date}),
        **({} if scorer.calibration is None else {"calibration": scorer.calibration.digest()}),
    }
    with PartialOutput(output, run, overwrite=overwrite) as partial:
        summary = ScoreSummary(**partial.state.get("summary", {}))
        if not partial.complete:
            scorer.try_sharing()  # decided before the first window, so that a resumed run computes each window equally
            summary.resumed_at = summary.rows
            with _bar(source, summary, show_progress) as bar:
                _write_rewards(partial, scorer, source, options, summary, bar)
    return summary


def date_of_earlier_run(output: Path, model_identity: str, *, overwrite: bool = False) -> str | None:
    """
    Returns the date in the chat template of an earlier run that this run continues or keeps.

    Args:
        output, model_identity, overwrite: As in [`score_file`].
    """
    found = PartialOutput(output, {}).read_journal() or {}
    run = found.get("run", {})
    begins_anew = found.get("finished") and overwrite
    return run.get("chat_date") if run.get("model") == model_identity and not begins_anew else None


def _write_rewards(
    partial: PartialOutput,
    scorer: RewardScorer,
    source: RecordFile,
    options: ScoreOptions,
    summary: ScoreSummary,
    bar: tqdm,
) -> None:
    records = read_records(source)
    read = partial.state.get("read", 0)
    for _ in itertools.islice(records, read):
        pass
    for rows in _windows(records, scorer, options, summary):
        rewards = _score(scorer, rows, bar)
        lines = b"".join(
            line(row, reward, options.reward_column, scorer.calibration) for row, reward in zip(rows, rewards)
        )
        read += sum(1 + row.skipped for row in rows)
        _count(summary, rewards)
        bar.n = summary.rows
        bar.refresh()
        partial.append(lines, {"read": read, "summary": {**vars(summary), "resumed_at": 0}})
    partial.finish({"summary": {**vars(summary), "resumed_at": 0}, "rm_toolkit_version": __version__})


def _windows(
    records: Iterator[tuple[Place, Any]], scorer: RewardScorer, options: ScoreOptions, summary: ScoreSummary
) -> Iterator[list[Row]]:
    window: list[Row] = []
    size = skipped = 0
    for place, record in records:
        try:
            if isinstance(record, InputError):
                raise record
            row = read_row(place, record, scorer, options)
        except InputError as error:
            if not options.skip_invalid:
                raise
            skipped += 1
            summary.invalid += 1
            if len(summary.first_invalid) < 5:
                summary.first_invalid.append(str(error))
            continue
        row.skipped, skipped = skipped, 0
        window.append(row)
        size += row.size
        if len(window) == options.window or size >= WINDOW_SIZE:
            yield window
            window, size = [], 0
    if window:
        yield window


def _score(scorer: RewardScorer, rows: list[Row], bar: tqdm) -> list[Any]:
    before = bar.n

    def report(share: float) -> None:
        bar.n = before + int(share * len(rows))
        bar.update(0)

    return scorer.score(
        [row.prompt for row in rows],
        [row.completions for row in rows],
        domains=[row.domain for row in rows] if scorer.routing else None,
        **{name: [row.template.get(name) for row in rows] for name in TEMPLATE_COLUMNS},
        on_progress=report,
    )


def _count(summary: ScoreSummary, rewards: list[Any]) -> None:
    values = [value for reward in rewards for value in (reward if isinstance(reward, list) else [reward])]
    summary.rows += len(rewards)
    summary.completions += len(values)
    summary.total += float(np.sum(values))
    summary.squares += float(np.sum(np.square(values)))


def _bar(source: RecordFile, summary: ScoreSummary, show: bool) -> tqdm:
    return tqdm(
        total=_count_rows(source) if show else None,
        initial=summary.rows,
        desc="Scoring",
        unit="row",
        disable=no_bar(show),
        dynamic_ncols=True,
        smoothing=0.05,
    )


def _count_rows(source: RecordFile) -> int | None:
    """Number of rows of a file, if quickly known; only for the progress bar."""
    path = Path(source.path)
    if not path.is_file():
        return None
    if path.suffix == ".parquet":
        import pyarrow.parquet

        try:
            return pyarrow.parquet.ParquetFile(path).metadata.num_rows
        except (pyarrow.ArrowException, OSError):  # reported when it is read
            return None
    with path.open("rb") as file:
        head = file.read(64)
        if not head or head.startswith(GZIP_MAGIC) or head.lstrip()[:1] == b"[" or path.stat().st_size > COUNTED_BYTES:
            return None
        count = head.count(b"\n")
        while chunk := file.read(1 << 20):
            count += chunk.count(b"\n")
        file.seek(-1, os.SEEK_END)
        return count + (file.read(1) != b"\n")


def model_identity(model: str, dtype: str, adapters: Mapping[str, str], *, served: bool = False) -> str:
    """
    A string that changes with anything that rewards depend on: the files of a folder by size and time, the commit of a
    Hub repository; for an adapter, those of its base too.

    Args:
        model (`str`): Folder or Hub id (also `ID@REVISION`).
        dtype (`str`): Precision of the weights.
        adapters (`Mapping[str, str]`): Folder or Hub id of each adapter on the model.
        served (`bool`): Whether a server computes (its last digits differ); its address does not matter.
    """
    parts = [dtype, *(["served"] if served else []), *_identity("", *split_revision(model))]
    base = base_of_adapter(*split_revision(model))
    while base is not None:
        parts += _identity("base", *base)
        base = base_of_adapter(*base)
    for name, place in adapters.items():
        parts += _identity(name, *split_revision(place))
    return f"{model} {hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}"


def _identity(role: str, place: str, revision: str | None) -> list[str]:
    if not os.path.isdir(place):
        return [f"{role}={place}@{find_commit(place, revision)}"]
    rows = [(name, row) for name, row in list_folder(place) if row is not None and row.loaded]
    files = [
        Path(place, name) for name, _ in rows if not name.startswith((f"{ADAPTER_FOLDER}/", f"{LM_HEAD_FOLDER}/"))
    ]
    found = [(path, path.stat()) for path in files if path.is_file()]
    return [
        f"{role}={os.path.abspath(place)}",
        *(f"{path.relative_to(place)}:{stat.st_size}:{stat.st_mtime_ns}" for path, stat in found),
    ]
