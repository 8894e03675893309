"""Two data sets in one, as [`~rm_toolkit.batches.replay_plan.join`] makes it, in a file that the processes of a machine map."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np

from .mapped_arrays import mapped_from
from .replay_plan import join
from .token_cache import TokenCache
from .tokenization import TokenizedPreferences


def join_once(customized: TokenizedPreferences, general: TokenizedPreferences) -> TokenizedPreferences:
    """
    Returns what `join` does. The first process that asks stores it beside the token ids, and the others read that: the data
    are in memory once, however many processes they are for. Where nothing can be stored, each holds a copy.

    Args:
        customized, general (`TokenizedPreferences`): As of [`~rm_toolkit.batches.replay_plan.join`].
    """
    cache = TokenCache.named("joined", (_identity(customized), _identity(general)))
    stored = cache.load()
    if stored is None:
        joined = join(customized, general)
        cache.save({name: value for name, value in vars(joined).items() if name in FIELDS})
        stored = cache.load()
        if stored is None:
            return joined
    return TokenizedPreferences(name=customized.name, **stored)


FIELDS = frozenset(column.name for column in dataclasses.fields(TokenizedPreferences)) - {"name"}


def _identity(data: TokenizedPreferences) -> list[str]:
    """What two data sets share if all their fields are the same: of those in a file of token ids, its name."""
    found = []
    for name in sorted(FIELDS):
        value = getattr(data, name)
        if isinstance(value, np.ndarray):
            content = mapped_from(value)  # whose name has all that they are made of
            if content is None:
                content = hashlib.blake2b(np.ascontiguousarray(value), digest_size=16).hexdigest()
            value = f"{content} {value.dtype} {value.shape}"
        found.append(f"{name} {value}")
    return found
