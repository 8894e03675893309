"""`final_eval_pairs.parquet`: the rewards behind the metrics of a run's end, so that runs can be compared pair by pair."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..batches.tokenization import TokenizedPreferences
from ..errors import InputError, first_line
from ..models.files import FINAL_PAIRS_NAME
from ..output.folders import replaced_file
from .metrics import accuracy


@dataclass(frozen=True)
class PairRewards:
    """
    The pairs of one test set as a model judges them.

    Args:
        better, worse (`np.ndarray` of shape `(num_pairs,)`): Rewards of the two responses, in logits.
        prompt (`np.ndarray` of shape `(num_pairs,)`): Number of the prompt of each pair.
    """

    better: np.ndarray
    worse: np.ndarray
    prompt: np.ndarray

    @classmethod
    def of(cls, rewards: np.ndarray, data: TokenizedPreferences) -> PairRewards:
        """
        Args:
            rewards (`np.ndarray` of shape `(num_sequences,)`): Rewards of a test set, in logits.
            data (`TokenizedPreferences`): The test set.
        """
        return cls(rewards[data.better], rewards[data.worse], data.prompt)

    @property
    def margins(self) -> np.ndarray:
        """Reward of the better minus that of the worse response, in logits; of shape `(num_pairs,)`."""
        return self.better.astype(np.float64) - self.worse


def write_pair_rewards(sets: Mapping[str, PairRewards], path: str | Path) -> None:
    """
    Writes one row per pair: `test_set`, `prompt`, `chosen_reward` and `rejected_reward`.

    Args:
        sets (`dict[str, PairRewards]`): By test set.
        path (`str` or `Path`): A Parquet file, which is replaced.
    """
    import pyarrow
    from pyarrow import parquet

    counts = [len(pairs.prompt) for pairs in sets.values()]
    names = pyarrow.array(np.repeat(np.array(list(sets), dtype=object), counts), pyarrow.string())
    columns = {
        "prompt": np.concatenate([pairs.prompt for pairs in sets.values()]).astype(np.int64),
        "chosen_reward": np.concatenate([pairs.better for pairs in sets.values()]).astype(np.float32),
        "rejected_reward": np.concatenate([pairs.worse for pairs in sets.values()]).astype(np.float32),
    }
    table = pyarrow.table({"test_set": names.dictionary_encode(), **columns})
    with replaced_file(path, "wb") as file:
        parquet.write_table(table, file, compression="zstd")


def read_pair_rewards(path: str | Path) -> dict[str, PairRewards]:
    """
    Reads what [`write_pair_rewards`] wrote.

    Raises:
        `InputError`: if the file cannot be read.
    """
    import pyarrow
    from pyarrow import parquet

    names = ["test_set", "prompt", "chosen_reward", "rejected_reward"]
    try:
        found = parquet.read_table(path, columns=names)
        sets, prompt, better, worse = (found[name].to_numpy() for name in names)
    except (OSError, pyarrow.ArrowException, KeyError) as error:
        raise InputError(
            f"{path} cannot be read ({first_line(error)}). Remove it: it is only used to compare."
        ) from error
    return {
        str(name): PairRewards(better[sets == name], worse[sets == name], prompt[sets == name])
        for name in dict.fromkeys(sets)
    }


def write_final_pairs(
    folder: str, results: Mapping[str, Mapping[str, float]], pairs: Mapping[str, PairRewards]
) -> None:
    """
    Writes `final_eval_pairs.parquet` if the rewards behind all metrics are at hand. A run that was resumed after its last
    evaluation has the metrics in its log, but not the rewards: it keeps an earlier file if that has them, and removes it
    if it is of other weights.

    Args:
        folder (`str`): Output folder of the run.
        results (`dict`): Metrics of each test set at the end.
        pairs (`dict[str, PairRewards]`): Rewards of the last evaluation in this process.
    """
    path = Path(folder, FINAL_PAIRS_NAME)
    if results and _are_behind(results, pairs):
        write_pair_rewards({name: pairs[name] for name in results}, path)
    elif path.is_file() and not _are_behind(results, _readable(path)):
        path.unlink()


def _are_behind(results: Mapping[str, Mapping[str, float]], pairs: Mapping[str, PairRewards]) -> bool:
    """Whether rewards are those that all metrics were computed from."""
    return all(
        name in pairs and np.array_equal(accuracy(pairs[name].margins), metrics["accuracy"], equal_nan=True)
        for name, metrics in results.items()
    )


def _readable(path: Path) -> dict[str, PairRewards]:
    """The rewards in a file; none if it is damaged."""
    try:
        return read_pair_rewards(path)
    except InputError:
        return {}
