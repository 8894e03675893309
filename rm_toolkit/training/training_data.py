"""What a run trains on: its rows as token ids, the replayed general pairs, and texts for checking the saved model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

from accelerate import PartialState
from datasets import IterableDataset
from transformers import PreTrainedTokenizerBase

from ..batches.equal_texts import are_many, describe_equal_pairs
from ..batches.given_ids import row_reader
from ..batches.joined_data import join_once
from ..batches.replay_plan import join
from ..batches.stream import PreferenceStream, Tokenize
from ..batches.token_cache import TokenCache
from ..batches.tokenization import TokenizedPreferences, tokenize_preferences, tokenize_rows
from ..data.id_rows import id_columns
from ..data.records import RowPlace
from ..data.templates import text_to_messages
from ..errors import InputError, beginning
from ..output.progress import say
from .config import RewardModelConfig
from .display import describe_truncation
from .steps import check_stream_arguments, data_seed


MOST_WORDS = 20  # of a prompt that is invented for the reload check
MOST_CHARACTERS = 60


@dataclass(frozen=True)
class TrainingData:
    """
    The data of a run.

    Args:
        train (`TokenizedPreferences` or `PreferenceStream`): The training rows.
        replay (`TokenizedPreferences`, *optional*): General pairs; every step has some of them.
        joined (`TokenizedPreferences` or `PreferenceStream`): `train`, followed by `replay` if there is one.
        samples (`list`): Prompts and responses of a few texts, for the reload check.
        stream_sample (`TokenizedPreferences`, *optional*): The first rows of a stream.
        sources (`tuple`): The datasets of `train` and `replay`; used to name a row in errors.
    """

    train: TokenizedPreferences | PreferenceStream
    replay: TokenizedPreferences | None
    joined: TokenizedPreferences | PreferenceStream
    samples: list[tuple[Any, Any]]
    stream_sample: TokenizedPreferences | None = None
    sources: tuple[Any, ...] = ()

    @property
    def is_stream(self) -> bool:
        """Whether the training rows are a stream."""
        return isinstance(self.train, PreferenceStream)

    @property
    def sample(self) -> TokenizedPreferences:
        """Rows that represent all: for a stream, its first ones."""
        return self.train if self.stream_sample is None else self.stream_sample

    def row_tags(self, row: int) -> str:
        """Returns the tags of a row of the training data, for messages."""
        if self.is_stream:
            return ""  # its rows have been consumed
        first_replayed = int(self.train.row.max()) + 1
        replayed = row >= first_replayed
        tags = row_tags(self.sources[int(replayed)], row - first_replayed if replayed else row)
        return " (replayed)" + tags if replayed else tags

    def describe_row(self, tokenizer: PreTrainedTokenizerBase, row: int, pair: int, data: Any = None) -> str:
        """
        Names a row in a message: its number, its tags, and how the better text of a pair begins.

        Args:
            tokenizer (`PreTrainedTokenizerBase`): That of the run.
            row, pair (`int`): Number of the row, and of the pair in `data`.
            data (`TokenizedPreferences`, *optional*): The data with the pair, if it is not `joined`: for a stream.
        """
        data = data or self.joined
        text = tokenizer.decode(data.sequence(data.better[pair])[: 2 * MOST_CHARACTERS], skip_special_tokens=True)
        return f"{row}{self.row_tags(row)}: '{beginning(text, MOST_CHARACTERS)}'"


def row_tags(dataset: Any, row: int) -> str:
    """Returns ` (prompt_id 'x', source 'y')` for a row of a dataset that has such columns, or an empty string."""
    if not hasattr(dataset, "column_names") or row >= len(dataset):  # tokenized already
        return ""
    values = dataset[row]
    tags = [f"{name} '{values[name]}'" for name in ("prompt_id", "source") if values.get(name)]
    return f" ({', '.join(tags)})" if tags else ""


@contextlib.contextmanager
def _once_a_machine(kept: bool) -> Iterator[None]:
    """
    Lets the first process of each machine run first, so that it alone writes the files that the others then read.

    Args:
        kept (`bool`): Whether files are written; if not, all run at once. The same on all processes.
    """
    state = PartialState()
    if not kept or state.num_processes == 1:
        yield
        return
    if not state.is_local_main_process:
        state.wait_for_everyone()
    try:
        yield
    except InputError:  # the others raise it themselves
        if state.is_local_main_process:
            state.wait_for_everyone()
        raise
    if state.is_local_main_process:
        state.wait_for_everyone()


class Preparation:
    """
    Tokenizes the datasets of a run, and keeps the texts of the first row that it sees.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): From [`~rm_toolkit.models.tokenizer.prepare_tokenizer`].
        args (`RewardModelConfig`): Settings of the tokenization.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, args: RewardModelConfig):
        self.tokenizer, self.args = tokenizer, args
        self.samples: list[tuple[Any, Any]] = []
        self.stream_sample: TokenizedPreferences | None = None

    def prepare(self, dataset: Any, name: str) -> TokenizedPreferences | PreferenceStream:
        """
        Tokenizes a dataset; a tokenized one is returned as it is.

        Args:
            dataset (`datasets.Dataset` or `IterableDataset`): Pairs or ranked rows.
            name (`str`): `train`, or its name in messages.

        Raises:
            `InputError`: if it has no pair with a preference, or is a stream where none is allowed.
        """
        if isinstance(dataset, TokenizedPreferences | PreferenceStream):
            return dataset
        args = self.args
        trained = name in ("train", "replay")
        options = {
            "max_length": args.max_length,
            "data_format": args.data_format,
            "lm_score_threshold": args.lm_score_threshold,
            "lm_target_eos": args.lm_loss_coef > 0,
            "name": name,
            # If rows are weighted as in the original, pairs of equal texts stay in their means.
            "keep_equal": not trained or args.pair_weighting == "prompt",
            "tied_rows": trained and args.pair_weighting == "prompt",
            "find_completions": args.lm_loss_coef > 0 and args.lm_loss_on == "completion",
        }
        if isinstance(dataset, IterableDataset):
            return self._stream(dataset, partial(tokenize_rows, tokenizer=self.tokenizer, checked=set(), **options))
        if len(dataset):
            self._keep_samples(dataset[0])
        show_progress = not args.disable_tqdm and args.should_log
        with _once_a_machine(TokenCache.keeps(dataset, self.tokenizer, args.data_format)):
            data = tokenize_preferences(dataset, self.tokenizer, show_progress=show_progress, **options)
        if data.num_truncated and args.should_log:
            say(describe_truncation(data, args.max_length))
        keep = options["keep_equal"]
        if args.should_log and not are_many(data.equal_pairs, len(data), keep):  # for many, a warning was printed
            line = describe_equal_pairs(name, data.equal_pairs, len(data), keep, options["tied_rows"])
            if line:
                say(line)
        if not len(data):
            equal = f", {data.num_equal_pairs} pairs of equal texts" if data.num_equal_pairs else ""
            raise InputError(
                f"dataset '{name}' has {len(dataset)} rows but not one pair with a preference "
                f"({data.num_label_ties} ties{equal}). Check its {'texts' if equal else 'scores'}, or leave it out."
            )
        return data

    def gather(self, train: Any, train_source: Any, replay_source: Any) -> TrainingData:
        """
        Assembles the data of a run, and prepares the replayed data.

        Args:
            train (`TokenizedPreferences` or `PreferenceStream`): As [`prepare`] made it.
            train_source, replay_source (`datasets.Dataset`, *optional*): Rows.

        Raises:
            `InputError`: if general pairs are to be replayed and there are none.
        """
        replay, joined, fraction = None, train, self.args.general_replay_fraction
        if fraction:
            if replay_source is None:
                raise InputError(
                    f"`general_replay_fraction` is {fraction:g}, but there is nothing to replay. "
                    "Name general preferences: --replay_datasets NAME=SPEC (in Python, `replay_dataset`)."
                )
            replay = self.prepare(replay_source, "replay")
            kept = any(
                TokenCache.keeps(source, self.tokenizer, self.args.data_format)
                for source in (train_source, replay_source)
            )
            # A single process needs no copy on the disk to share.
            if kept and PartialState().num_processes > 1:
                with _once_a_machine(kept):
                    joined = join_once(train, replay)
            else:
                joined = join(train, replay)
        sources = (train_source, replay_source)
        return TrainingData(train, replay, joined, self.samples, self.stream_sample, sources)

    def _stream(self, dataset: IterableDataset, tokenize: Tokenize) -> PreferenceStream:
        name, args = tokenize.keywords["name"], self.args
        if name != "train":
            raise InputError(
                f"test set '{name}' is a stream, but test sets are evaluated whole. Load it without `streaming`."
            )
        check_stream_arguments(args)
        stream = PreferenceStream(
            dataset,
            tokenize,
            name=name,
            buffer_size=args.shuffle_buffer_size,
            num_processes=args.world_size,
            process_index=args.process_index,
            seed=data_seed(args),
            group_by_prompt=args.group_by_prompt,
            tied_rows=tokenize.keywords["tied_rows"],
            num_tokens=len(self.tokenizer),
        )
        rows = stream.sample()
        self._keep_samples(rows[0])
        # Used to choose the batch layout, before the first block is read.
        read = row_reader(rows[0], name, len(self.tokenizer))
        places = (RowPlace(f"dataset '{name}', a stream", "row", number) for number in count(1))
        self.stream_sample = tokenize([read(row, place) for row, place in zip(rows, places)])
        return stream

    def _keep_samples(self, row: Mapping[str, Any]) -> None:
        if self.samples:
            return
        columns = id_columns(row)
        if columns is not None:  # any text works for the reload check
            asked, *answers = (
                self.tokenizer.decode(row[name], skip_special_tokens=True) for name in (columns[0], *columns)
            )
            asked = " ".join(asked.split()[:MOST_WORDS])
            self.samples += [
                text_to_messages(asked, a) if self.args.data_format == "chat" else (asked, a) for a in answers
            ]
            return
        responses = row["completions"] if "completions" in row else [row["chosen"], row["rejected"]]
        prompt = row.get("prompt")
        self.samples += [(type(text)() if prompt is None else prompt, text) for text in responses]
