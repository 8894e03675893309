"""The result of [`~rm_toolkit.batches.replay_plan.join`] in a file that the processes of a machine map."""

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
    Returns what `join` does. The first process stores the result beside the token ids, and the others map it: the data is
    in memory once for any number of processes. If it cannot be stored, each process holds a copy.

    Args:
        customized, general (`TokenizedPreferences`): As in [`~rm_toolkit.batches.replay_plan.join`].
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
    """A key that two datasets share if all their fields are the same; mapped fields contribute their file's name."""
    found = []
    for name in sorted(FIELDS):
        value = getattr(data, name)
        if isinstance(value, np.ndarray):
            content = mapped_from(value)  # the file's name identifies its content
            if content is None:
                content = hashlib.blake2b(np.ascontiguousarray(value), digest_size=16).hexdigest()
            value = f"{content} {value.dtype} {value.shape}"
        found.append(f"{name} {value}")
    return found
