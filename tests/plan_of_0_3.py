"""A slow and simple version of how 0.3.0 planned an epoch on one process, as a reference for today's plan."""

from __future__ import annotations

import numpy as np

from rm_toolkit.batches.prefixes import SHARING_OVERHEAD, common_prefix


def groups_of(group):
    """Pairs of each group, in the order of the groups' numbers."""
    return [np.flatnonzero(group == number) for number in np.unique(group)]


def epoch_order(group, seed, epoch):
    groups = groups_of(group)
    return np.concatenate([groups[k] for k in np.random.default_rng([seed, epoch]).permutation(len(groups))])


def by_length(data, pairs):
    lengths = np.diff(data.offsets)
    groups = [np.sort(pairs[members]) for members in groups_of(data.prompt[pairs])]
    longest = [max(lengths[data.better[g]].max(), lengths[data.worse[g]].max()) for g in groups]
    return [groups[k] for k in np.argsort(longest, kind="stable")]


def shared_tokens(data, prompt):
    pairs = np.flatnonzero(data.prompt == prompt)
    return min(common_prefix(data.sequence(data.better[k]), data.sequence(data.worse[k])) for k in pairs)


class Filling:
    """First fit that looks at every micro-batch for each piece."""

    def __init__(self, data, pairs, tokens, shared):
        self.data, self.tokens, self.shared = data, tokens, shared
        self.limit = pairs if tokens is None else tokens
        self.common = {number: shared_tokens(data, number) for number in np.unique(data.prompt)} if shared else {}

    def parts(self, group):
        """Of a piece: numbers of pairs and texts, length of the longest text, and tokens."""
        sequences = np.unique(np.concatenate([self.data.better[group], self.data.worse[group]]))
        lengths = np.diff(self.data.offsets)[sequences]
        saved = 0
        if self.shared:
            shared = self.common[self.data.prompt[group[0]]]
            saved = max(0, (len(sequences) - 1) * shared - SHARING_OVERHEAD)
        return len(group), len(sequences), int(lengths.max()), int(lengths.sum()) - saved

    def cost(self, pieces):
        parts = [self.parts(piece) for piece in pieces]
        if self.tokens is None:
            return sum(part[0] for part in parts)
        if self.shared:
            return sum(part[3] for part in parts)
        return sum(part[1] for part in parts) * max(part[2] for part in parts)

    def split(self, group):
        if self.cost([group]) <= self.limit:
            return [group]
        pieces, begin = [], 0
        for end in range(1, len(group) + 1):
            if end - begin > 1 and self.cost([group[begin:end]]) > self.limit:
                pieces.append(group[begin : end - 1])
                begin = end - 1
        return [*pieces, group[begin:]]

    def fill(self, groups):
        batches: list[list[np.ndarray]] = []
        for group in groups:
            for piece in self.split(group):
                target = next((batch for batch in batches if self.cost([*batch, piece]) <= self.limit), None)
                if target is None:
                    batches.append([piece])
                else:
                    target.append(piece)
        return [np.concatenate(batch) for batch in batches]


def lm_sequences(data, chunks):
    counted: set[int] = set()
    found = []
    for chunk in chunks:
        texts = [*data.better[chunk][data.lm_better[chunk]], *data.worse[chunk][data.lm_worse[chunk]]]
        new = sorted({int(k) for k in texts} - counted)
        counted.update(new)
        found.append(new)
    return found
