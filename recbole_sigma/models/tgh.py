"""TGH (arXiv 2605.07125): lists from rings of the directed graph of train transitions, nothing trained.

An edge leads from an item to the one that followed it in a train history. Ring h of an item holds what is h
steps away and no fewer. Inside a ring items stand by cosine of their text to that of the item in the middle;
in ring 1 half of log(1 + count), over the largest of the item, is added. TGH gives the first places to the
rings of the last item, 7, 2 and 1 of ten; TGH-2 takes 5 and 1 from those of the last item and 3 and 1 from
those of the one before. What a ring lacks comes from what the rings before it had to spare. The published
lists end there; here what is left of the rings follows, then all other items by text.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from recbole_sigma.grounding.cooccurrence import transitions
from recbole_sigma.grounding.ground import encode_texts
from recbole_sigma.models.untrained import Untrained
from recbole_sigma.preparation.fields import item_texts
from recbole_sigma.settings.baseline_keys import TghKeys
from recbole_sigma.settings.keys import VectorKeys
from recbole_sigma.settings.reader import read
from recbole_sigma.settings.recbole_keys import RecBoleKeys, RoleKeys

COUNT_WEIGHT = 0.5  # alpha of the published configuration


class TGH(Untrained):
    """See the module's docstring; keys ``tgh_last`` and ``tgh_second``."""

    needs_item_text = True

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        own, vectors = read(TghKeys, config), read(VectorKeys, config)
        self.budgets = (own.tgh_last, own.tgh_second)
        users, items = dataset.train_events().sequences()
        self.counts = transitions(users, items, self.n_items)
        self.edges = (self.counts > 0).astype(np.float32)
        self.largest = self.counts.max(axis=1).toarray()[:, 0]
        self.text = encode_texts(
            item_texts(dataset, read(RoleKeys, config).text_fields),
            vectors.grounding_text_encoder,
            vectors.grounding_text_dim,
            read(RecBoleKeys, config).seed,
        )

    def scores(self, rows: np.ndarray, items: np.ndarray, batch: int) -> np.ndarray:
        """Scores whose order is the list; see `Untrained.scores`."""
        found = np.zeros((batch, self.n_items), dtype=np.float32)
        if not len(items):
            return found
        length = np.bincount(rows, minlength=batch)
        newest = np.cumsum(length) - 1
        sources = [np.where(length > back, items[np.maximum(newest - back, 0)], 0) for back in (0, 1)]
        # rounded, so that items of equal text tie whatever batch the product was made in
        found[:] = np.round(self.text[sources[0]] @ self.text.T, 5)
        rings = [
            self._rings(source, len(budget)) for source, budget in zip(sources, self.budgets, strict=True)
        ]
        for row in length.nonzero()[0].tolist():
            own = [[_members(ring, row) for ring in each] for each in rings]
            order = self._list([int(source[row]) for source in sources], own)
            found[row, order] = 2.0 + np.arange(len(order), 0, -1)  # above every cosine
        return found

    def _rings(self, source: np.ndarray, depth: int) -> list[sparse.csr_matrix]:
        """The rings of each row's source, nearest first: ``depth`` matrices [B, N]."""
        shape = (len(source), self.n_items)
        start = (np.ones(len(source), dtype=np.float32), (np.arange(len(source)), source))
        inside = reached = sparse.csr_matrix(start, shape=shape)
        rings = []
        for _ in range(depth):
            inside = ((inside @ self.edges) > 0).astype(np.float32)
            inside = (inside - inside.multiply(reached > 0)).tocsr()
            inside.eliminate_zeros()
            reached = reached + inside
            rings.append(inside)
        return rings

    def _list(self, sources: list[int], rings: list[list[np.ndarray]]) -> list[int]:
        """The items of a row's rings in the order of its list.

        Args:
            sources: the last item and the one before; 0 where there is none.
            rings: of each of them, the items of every ring.
        """
        chosen: list[int] = []
        spare: list[int] = []
        for middle, own, budget in zip(sources, rings, self.budgets, strict=True):
            if not middle:
                continue
            ordered = []
            for depth, members in enumerate(own):
                value = self.text[members] @ self.text[middle]
                if depth == 0 and len(members):
                    counts = np.log1p(self.counts[[middle]][:, members].toarray()[0])
                    value = value + COUNT_WEIGHT * counts / np.log1p(self.largest[middle])
                best = members[np.argsort(-value, kind="stable")].tolist()
                ordered.append([item for item in best if item not in chosen])
            taken, left = assembled(ordered, budget)
            chosen += taken
            spare += left
        # a dictionary keeps the order and takes an item once
        return list(dict.fromkeys([*chosen, *spare]))


def _members(ring: sparse.csr_matrix, row: int) -> np.ndarray:
    return np.sort(ring.indices[ring.indptr[row] : ring.indptr[row + 1]])


def assembled(rings: list[list[int]], budget: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """(the places that a source fills, what its rings have to spare in order).

    Args:
        rings: items of each ring, best first.
        budget: places of each ring; what a ring lacks is filled from the spare items of those before it.
    """
    chosen: list[int] = []
    spare: list[int] = []
    for ring, places in zip(rings, budget, strict=True):
        lent = min(len(spare), max(0, places - len(ring)))
        chosen += spare[:lent]
        spare = spare[lent:]
        chosen += ring[: places - lent]
        spare += ring[places - lent :]
    missing = sum(budget) - len(chosen)
    return chosen + spare[:missing], spare[missing:]
