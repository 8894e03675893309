"""The date in the chat template of a scoring model: its own, else the user's, else today."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..batches.chat_clock import UnusedDateError, choose_date, reads_clock, with_date
from ..errors import InputError
from ..models.hub_files import split_revision
from ..models.settings import RewardModelSettings, load_settings
from .reading import reading_of


logger = logging.getLogger(__name__)


def dated_for_scoring(
    tokenizer: PreTrainedTokenizerBase, settings: RewardModelSettings, known: Iterable[str], asked: str | None
) -> tuple[PreTrainedTokenizerBase, str | None]:
    """
    Returns the tokenizer of a model with a date instead of the clock in its chat template, and that date if it is not
    the model's own. Warns if the date is neither known nor given.

    Args:
        tokenizer (`PreTrainedTokenizerBase`): The model's tokenizer; not changed.
        settings (`RewardModelSettings`): The model's settings.
        known (`Iterable[str]`): From [`dates_of_adapters`].
        asked (`str`, *optional*): `chat_date`.

    Raises:
        `UnusedDateError`: if the given date would not be used.
        `InputError`: if it cannot be written into the template.
    """
    if settings.data_format != "chat":
        if asked is not None:
            raise UnusedDateError(
                f"`chat_date` is '{asked}', but the model does not use a chat template. Leave it out."
            )
        return tokenizer, None
    own = settings.chat_date or next(iter(known), None)
    date = choose_date(tokenizer, own, asked)
    if not reads_clock(tokenizer):
        return tokenizer, None
    if own is None and asked is None:
        logger.warning(
            "the chat template asks for the date, but the model has none stored: it reads today's, %s. Rewards differ on "
            "another day. Give a date to keep them (--chat-date %s; in Python and in recipes `chat_date`).",
            date,
            date,
        )
    return with_date(tokenizer, date), date if own is None else None


def dates_of_adapters(settings: RewardModelSettings, adapters: Mapping[str, str | os.PathLike] | None) -> list[str]:
    """
    Returns the date that adapters were trained with, at most one.

    Args:
        settings (`RewardModelSettings`): Settings of their base.
        adapters (`Mapping[str, str | os.PathLike]`, *optional*): Folder or Hub id of each, by name.

    Raises:
        `InputError`: if there are several, because one batch has one chat template.
    """
    found: dict[str, str] = {} if settings.chat_date is None else {settings.chat_date: "the base"}
    for name, place in (adapters or {}).items():
        own = load_settings(*split_revision(place))
        if own is not None and own.chat_date is not None:
            found.setdefault(own.chat_date, f"adapter '{name}'")
    if len(found) > 1:
        (first, one), (second, other), *_ = found.items()
        raise InputError(
            f"`chat_date` of {other} is '{second}', that of {one} is '{first}'; all texts of a batch must be read in "
            f"the same way. Train "
            "the adapter with that date, or score with the merged model of its run."
        )
    return list(found)


def models_with_date(models: Mapping[str, Any], asked: str | None, *, trust_remote_code: bool = False) -> set[str]:
    """
    Returns which of several models have a chat template that asks for the date but no stored date.

    Args:
        models (`Mapping[str, Any]`): Folder or Hub id of each, by name; loaded models have a date already.
        asked (`str`, *optional*): `chat_date`.
        trust_remote_code (`bool`): Whether code that comes with a tokenizer may run.

    Raises:
        `InputError`: if a date is given and none of them would use it.
    """
    found = set()
    reason = f"`chat_date` is '{asked}', but loaded models have a date already. Leave it out."
    for name, model in models.items() if asked is not None else ():
        if not isinstance(model, (str, os.PathLike)):
            continue
        tokenizer, settings = reading_of(model, trust_remote_code=trust_remote_code)
        try:
            dated_for_scoring(tokenizer, settings, (), asked)
        except UnusedDateError as error:
            reason = str(error)
        else:
            found.add(name)
    if asked is not None and not found:
        raise InputError(reason)
    return found


def dated(
    tokenizer: PreTrainedTokenizerBase, settings: RewardModelSettings, adapters: Any, chat_date: str | None
) -> tuple[PreTrainedTokenizerBase, str | None]:
    """
    [`dated_for_scoring`] for a model and the adapters on it.

    Args:
        tokenizer, settings, chat_date: As there.
        adapters (`Mapping`, *optional*): Folder or Hub id of each.
    """
    return dated_for_scoring(tokenizer, settings, dates_of_adapters(settings, adapters), chat_date)
