"""The date in the chat template of a run: fixed when the run begins, and kept by every run and stage that continues it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import PreTrainedTokenizerBase, TrainingArguments

from ..batches.chat_clock import change_date, check_date, choose_date, reads_clock, today, with_date
from ..errors import InputError
from ..models.settings import load_settings
from ..output.progress import say


@dataclass
class DatedConfig:
    """The date in the configs of all stages; must come before the `TrainingArguments` that they extend."""

    chat_date: str | None = field(
        default=None,
        metadata={
            "help": "The date, YYYY-MM-DD, for a chat template that asks for it. If not set: the model's own, or today's."
        },
    )

    def __post_init__(self):
        self.chat_date = check_date(self.chat_date)
        super().__post_init__()


def dated_tokenizer(
    tokenizer: PreTrainedTokenizerBase, args: TrainingArguments, known: str | None
) -> tuple[PreTrainedTokenizerBase, str | None]:
    """
    Returns the tokenizer of a run, with a fixed date instead of the clock in its chat template, and that date.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): As the user gives it; it is not changed.
        args (`TrainingArguments`): `data_format`, and `chat_date` where one is given.
        known (`str`, *optional*): The date of the checkpoint or model that the run continues.

    Returns:
        `tuple`: The tokenizer (a copy if a date was written into it), and the date (`None` if the template has none).

    Raises:
        `InputError`: if the given date would not be used, or cannot be written into the template.
    """
    if args.data_format != "chat":
        if args.chat_date is not None:
            raise InputError(
                f"`chat_date` is '{args.chat_date}', but with `data_format` 'text' no chat template is read. Leave it out."
            )
        return tokenizer, None
    date = choose_date(tokenizer, known, args.chat_date, present=_same_day)
    if not reads_clock(tokenizer):
        return tokenizer, date
    if args.should_log:
        say(f"The chat template asks for the date: {date} is written into it permanently (`chat_date`).")
    return with_date(tokenizer, date), date


def _same_day() -> str:
    """Today's date by the clock of the main process; on the others it may be past midnight already."""
    answer = [today()]
    if PartialState().num_processes > 1:
        broadcast_object_list(answer)
    return answer[0]


def inherit_date(trainer: Any, folder: str | None) -> None:
    """
    Makes a run continue with the date of its checkpoint, if the trainer was created before that was known.

    A date that the user gave stays: the comparison with the checkpoint reports that it differs.

    Args:
        trainer (`StepTrainer`): Before its first step.
        folder (`str`, *optional*): The checkpoint.
    """
    before = load_settings(folder) if folder else None
    date, settings = before and before.chat_date, trainer.model.settings
    tokenizer = trainer.processing_class
    fixed_here = hasattr(tokenizer, "template_with_clock") and trainer.args.chat_date is None
    if not date or date == settings.chat_date or not fixed_here:
        return
    change_date(tokenizer, date)
    trainer.model.settings = dataclasses.replace(settings, chat_date=date)
    trainer.read_data_again()
