"""Preference rows -> token ids: every distinct text once, in batches, truncated on the left, with counts of the cuts."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from ..data.id_rows import id_columns
from ..data.messages import Conversation
from ..output.progress import no_bar
from .distinct_texts import DistinctTexts, read_again, rows_of
from .encoding import Encoder
from .equal_texts import CAUSES, cause_of_texts, have_more_than_content, merge_pairs, warn_of_equal_pairs
from .given_ids import read_ids
from .preference_rows import PreferenceRow
from .rendering import report_partial_prompts
from .row_pairs import PairColumns
from .token_cache import TokenCache
from .unpaired import FIRST, PROMPT, SECOND


@dataclass
class TokenizedPreferences:
    """
    Distinct token sequences, and which sequence beats which. Read by training, evaluation and scoring.

    Args:
        name (`str`): Name of the dataset, for messages and metrics.
        ids (`np.ndarray` of shape `(total_tokens,)`): Token ids of all sequences, concatenated.
        offsets (`np.ndarray` of shape `(num_sequences + 1,)`): Where each sequence begins in `ids`.
        completion_start (`np.ndarray` of shape `(num_sequences,)`): Index of the first token of the completion; zeros
            if not requested.
        better (`np.ndarray` of shape `(num_pairs,)`): Preferred sequence of each pair.
        worse (`np.ndarray` of shape `(num_pairs,)`): Other sequence of each pair.
        row (`np.ndarray` of shape `(num_pairs,)`): Row of the dataset that the pair is from.
        prompt (`np.ndarray` of shape `(num_pairs,)`): Number of the prompt; pairs of one prompt share it.
        margin (`np.ndarray` of shape `(num_pairs,)`, *optional*): Wanted difference of the rewards, in logits.
        lm_better (`np.ndarray` of shape `(num_pairs,)`): Whether the better text counts for the LM loss.
        lm_worse (`np.ndarray` of shape `(num_pairs,)`): Whether the worse text does.
        first_two (`np.ndarray` of shape `(num_rows_with_a_best, 2)`): The two best-scored sequences of each row whose
            scores differ, better first.
        num_label_ties (`int`): Pairs of responses with equal scores; not among the pairs here.
        unpaired (`np.ndarray` of shape `(num_lines, 4)`): Texts that are in no pair but in the LM loss, see
            [`~rm_toolkit.batches.unpaired.side_by_side`].
        tied_rows (`np.ndarray` of shape `(num_rows_all_tied,)`): The pair before each row whose scores are all tied,
            if such rows count; ascending.
        equal_pairs (`np.ndarray` of shape `(3,)`): Pairs whose two texts are equal to the model, by cause: equal as
            text (as rendered), as token ids, and after the cut to `max_length`.
        num_partial_prompts (`int`): Rows whose rendered prompt is not a prefix of the rendered row, if completions
            were requested.
        num_truncated (`int`): Number of truncated sequences.
        num_truncated_tokens (`int`): Total number of tokens cut off.
        lm_target_eos (`int`, *optional*): Last target of the LM loss, if the ids do not end in it.
        anchor_margin (`np.ndarray` of shape `(num_pairs,)`, *optional*): Difference of the general reward model's
            rewards of each pair; NaN if there is none.
        adapter (`np.ndarray` of shape `(num_sequences,)`, *optional*): Number of the adapter that reads each sequence:
            sequences of different adapters share nothing, and are separate in a batch.
    """

    name: str
    ids: np.ndarray
    offsets: np.ndarray
    completion_start: np.ndarray
    better: np.ndarray
    worse: np.ndarray
    row: np.ndarray
    prompt: np.ndarray
    margin: np.ndarray | None
    lm_better: np.ndarray
    lm_worse: np.ndarray
    first_two: np.ndarray
    unpaired: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), dtype=np.int32))
    tied_rows: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int32))
    num_label_ties: int = 0
    equal_pairs: np.ndarray = field(default_factory=lambda: np.zeros(len(CAUSES), dtype=np.int64))
    num_partial_prompts: int = 0
    num_truncated: int = 0
    num_truncated_tokens: int = 0
    lm_target_eos: int | None = None
    anchor_margin: np.ndarray | None = None
    adapter: np.ndarray | None = None

    @classmethod
    def without_pairs(cls, name: str, **encoded: Any) -> TokenizedPreferences:
        """Only sequences, as [`~rm_toolkit.batches.encoding.encode`] gives them: for scoring."""
        return cls(name=name, **encoded, **PairColumns().arrays())

    def __len__(self) -> int:
        return len(self.better)

    @property
    def num_equal_pairs(self) -> int:
        return int(self.equal_pairs.sum())

    @property
    def num_sequences(self) -> int:
        return len(self.offsets) - 1

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each sequence, `np.ndarray` of shape `(num_sequences,)`; cached."""
        return np.diff(self.offsets)

    def sequence(self, index: int) -> np.ndarray:
        """Token ids of one sequence."""
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    def with_unpaired(self) -> TokenizedPreferences:
        """
        Returns the data with its texts that are in no pair as additional pairs after the real ones. Used to fill
        micro-batches, so that their limits hold for these texts too; nothing else reads those pairs.
        """
        if not len(self.unpaired):
            return self
        lines, counts = self.unpaired, np.ones(len(self.unpaired), dtype=bool)
        return dataclasses.replace(
            self,
            better=np.concatenate([self.better, lines[:, FIRST]]),
            worse=np.concatenate([self.worse, lines[:, SECOND]]),
            prompt=np.concatenate([self.prompt, lines[:, PROMPT]]),
            lm_better=np.concatenate([self.lm_better, counts]),
            lm_worse=np.concatenate([self.lm_worse, counts]),
        )


def tokenize_preferences(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    data_format: str = "text",
    lm_score_threshold: float = 0.85,
    lm_target_eos: bool = False,
    name: str = "train",
    show_progress: bool = True,
    find_completions: bool = True,
    keep_equal: bool = True,
    tied_rows: bool = False,
) -> TokenizedPreferences:
    """
    Turns preference rows (pairs or ranked) into token ids.

    Args:
        dataset (`datasets.Dataset`): Rows with `chosen`/`rejected` or `completions`/`scores`, with or without `prompt`; or
            with token ids in `chosen_ids`/`rejected_ids`, which are read as they are.
        tokenizer (`PreTrainedTokenizerBase`): From [`~rm_toolkit.models.tokenizer.prepare_tokenizer`].
        max_length (`int`): Most tokens per sequence; longer ones are cut at their beginning, keeping BOS and EOS.
        data_format (`str`): `"text"` or `"chat"`.
        lm_score_threshold (`float`): A text counts for the LM loss if score / (best score + 1e-5) is above it.
        lm_target_eos (`bool`): Whether EOS is the last target of the LM loss, if the ids do not end in it.
        name (`str`): Name of the dataset.
        show_progress (`bool`): Whether to draw a progress bar.
        find_completions (`bool`): Whether `completion_start` is needed (`lm_loss_on="completion"`); without it, the
            tokenizer keeps no offsets and is about a third faster.
        keep_equal (`bool`): Whether to keep pairs whose two texts are equal to the model; evaluation counts them as
            ties.
        tied_rows (`bool`): Whether to record rows whose scores are all tied: `pair_weighting: prompt` counts them.

    Raises:
        `InputError`: if the columns are not those of a preference dataset, or the format does not fit the rows.
    """
    reading = {
        "max_length": max_length,
        "data_format": data_format,
        "lm_score_threshold": lm_score_threshold,
        "lm_target_eos": lm_target_eos,
        "find_completions": find_completions,
        "keep_equal": keep_equal,
        "tied_rows": tied_rows,
    }
    given = id_columns(dataset.column_names) is not None  # there is nothing to tokenize
    cache = None if given else TokenCache.of(dataset, tokenizer, tuple(reading.values()))
    stored = cache.load() if cache else None
    if stored is not None:
        warn_of_equal_pairs(name, stored["equal_pairs"], len(stored["better"]), keep_equal, tied_rows)
        report_partial_prompts(name, stored["num_partial_prompts"])
        return TokenizedPreferences(name=name, **stored)
    progress = None if no_bar(show_progress) else _progress(name, len(dataset))
    places = {
        "stored": None if given else read_again(dataset, name),
        "folder": cache.path.parent if cache else None,
    }
    rows = rows_of(dataset, name, len(tokenizer))
    data = tokenize_rows(rows, tokenizer, name=name, progress=progress, **places, **reading)
    return data if cache is None else _kept(data, cache)


def _kept(data: TokenizedPreferences, cache: TokenCache) -> TokenizedPreferences:
    """The same data, mapped from its file: all processes of a machine share the pages."""
    names = [column.name for column in dataclasses.fields(data) if column.name != "name"]
    cache.save({column: getattr(data, column) for column in names})
    stored = cache.load()
    return data if stored is None else TokenizedPreferences(name=data.name, **stored)


def _progress(name: str, num_rows: int) -> dict[str, Any]:
    return {"total": num_rows, "desc": f"Tokenizing {name}", "unit": "row", "leave": False, "delay": 2}


def tokenize_rows(
    rows: Iterable[PreferenceRow],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    data_format: str = "text",
    lm_score_threshold: float = 0.85,
    lm_target_eos: bool = False,
    name: str = "train",
    find_completions: bool = True,
    keep_equal: bool = True,
    tied_rows: bool = False,
    checked: set[str] | None = None,
    progress: dict[str, Any] | None = None,
    stored: Callable[[int, int], Conversation] | None = None,
    folder: Path | None = None,
) -> TokenizedPreferences:
    """
    Turns rows into token ids, without a cache.

    Args:
        rows (`Iterable[PreferenceRow]`): From [`as_row`].
        tokenizer, max_length, data_format, lm_score_threshold, lm_target_eos, name, find_completions, keep_equal,
            tied_rows: As in [`tokenize_preferences`].
        checked (`set[str]`, *optional*): Earlier reports of fields that are not read, if rows come in blocks.
        progress (`dict`, *optional*): Arguments of the progress bar; default: none is drawn.
        stored (`Callable`, *optional*): Reads a text of a row again, so that none is kept: (number of the row, which
            of its responses) -> text.
        folder (`Path`, *optional*): Where the token ids of a large dataset go until they are taken.

    Raises:
        `InputError`: if the format does not fit the rows.
        `RefusedRow`: if the chat template refuses one.
    """
    eos = tokenizer.eos_token_id if lm_target_eos and data_format == "text" else None
    rows = iter(rows if progress is None else tqdm(rows, **progress))
    first = next(rows, None)
    rows = [] if first is None else chain([first], rows)
    if first is not None and isinstance(first.completions[0], tuple):  # token ids
        fields = read_ids(rows, tokenizer, max_length, lm_score_threshold, keep_equal, tied_rows)
        warn_of_equal_pairs(name, fields["equal_pairs"], len(fields["better"]), keep_equal, tied_rows, checked)
        return TokenizedPreferences(name=name, lm_target_eos=eos, **fields)
    encoder = Encoder(tokenizer, max_length, data_format, find_completions=find_completions, folder=folder)
    texts = DistinctTexts(encoder, name, stored)
    columns = PairColumns(tied_rows)
    for number, row in enumerate(rows):
        columns.add_row(number, texts.members(row, number), row, lm_score_threshold)
    texts.encode()
    sequences, numbers = encoder.sequences, np.arange(len(texts))
    if have_more_than_content(texts.with_more, tokenizer, f"dataset '{name}'", checked):
        sequences, numbers = sequences.merged()
    encoded = sequences.columns()
    cause = cause_of_texts(texts, tokenizer, data_format)
    pairs = columns.arrays()
    num_partial = _partial_prompts(encoder.partial, pairs, name, checked)
    pairs = merge_pairs(pairs, encoded, numbers, cause, keep_equal)
    warn_of_equal_pairs(name, pairs["equal_pairs"], len(pairs["better"]), keep_equal, tied_rows, checked)
    return TokenizedPreferences(name=name, lm_target_eos=eos, num_partial_prompts=num_partial, **encoded, **pairs)


def _partial_prompts(texts: list[int], pairs: dict[str, Any], name: str, checked: set[str] | None) -> int:
    """Number of rows with one of some texts in a pair; used in a report."""
    found = np.isin(pairs["better"], texts) | np.isin(pairs["worse"], texts)
    num_rows = len(np.unique(pairs["row"][found]))
    report_partial_prompts(name, num_rows, checked)
    return num_rows
