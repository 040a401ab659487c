"""The catalogue by semantic-ID prefix of any length: the tree that is searched, and the items under each
prefix.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recbole_sigma.tokenization.trie import Trie, build_trie, deduplicate


@dataclass(frozen=True)
class PrefixSpace:
    """Prefixes of ``length`` codes.

    Attributes:
        length: l; 0 means one empty prefix over the whole catalogue.
        trie: l levels of codes, then one that numbers the items of a prefix; its nodes of depth l are the
            prefixes.
        codes: int64 [N, l].
        nodes: per level, int64 [N]: the node of depth level + 1 that each item lies under (0 for padding).
        buckets: the items by node of depth l.
    """

    length: int
    trie: Trie
    codes: Tensor
    nodes: tuple[Tensor, ...]
    buckets: PrefixBuckets

    @property
    def sizes(self) -> tuple[int, ...]:
        """Codebook sizes of the l levels."""
        return self.trie.sizes[: self.length]

    def to(self, device: torch.device | str) -> PrefixSpace:
        """The same prefixes on another device."""
        return PrefixSpace(
            self.length,
            self.trie.to(device),
            self.codes.to(device),
            tuple(nodes.to(device) for nodes in self.nodes),
            self.buckets.to(device),
        )


def build_prefixes(codes: Tensor, sizes: Sequence[int], length: int) -> PrefixSpace:
    """Arrange a catalogue by its first ``length`` codes.

    Args:
        codes: int64 [N, L], row 0 is padding.
        sizes: codebook size of each level.
        length: l, 0..L.
    """
    prefix = codes[:, :length]
    if length:
        full, largest = deduplicate(prefix)
    else:
        full, largest = (torch.arange(len(codes)) - 1).clamp_min(0)[:, None], len(codes) - 1
    trie = build_trie(full, [*sizes[:length], largest])
    leaves = trie.leaf_of_item[1:].long()
    padded = torch.cat([leaves.new_zeros(1), leaves])
    nodes = []
    for depth in range(1, length + 1):
        node = trie.node_of_leaf(depth, padded)
        node[0] = 0
        nodes.append(node)
    last = nodes[-1] if nodes else torch.zeros(len(codes), dtype=torch.int64)
    return PrefixSpace(
        length, trie, prefix, tuple(nodes), build_buckets(last, trie.n_nodes(length) if length else 1)
    )


def child_log_probs(
    logits: Tensor, trie: Trie, level: int, parents: Tensor, targets: Tensor, prior: Tensor | None = None
) -> Tensor:
    """Log-probability of one child each, under the softmax over all children of its parent.

    Args:
        logits: float [M, K] over the level's codes.
        trie: the tree.
        level: 0-based level of the code.
        parents: int64 [M], nodes of depth ``level``.
        targets: int64 [M], children (nodes of depth ``level + 1``) of the parents.
        prior: float [M, nodes of depth level + 1] added to the children's logits, or None.

    Returns:
        float [M].
    """
    start, degree = trie.children(level, parents)
    offset = torch.arange(int(degree.max()), device=logits.device)
    child = (start[:, None] + offset).clamp_max(trie.n_nodes(level + 1) - 1)
    values = logits.gather(1, trie.tokens[level][child].long())
    if prior is not None:
        values = values + prior.gather(1, child)
    values = values.masked_fill(offset >= degree[:, None], float("-inf"))
    return values.log_softmax(dim=1).gather(1, (targets - start)[:, None])[:, 0]


WIDEST = 1024
"""Prefixes per inner level that a search for all keeps; memory and time grow with their square."""
_CELLS = 1 << 26  # pairs of query and key positions of one pass


def search_widths(trie: Trie, depth: int, asked: int) -> tuple[int, int]:
    """Prefixes to keep at each inner level and at the last one.

    Args:
        trie: the catalogue.
        depth: levels of the prefix.
        asked: ``decode_beam``; 0 = all, at inner levels at most `WIDEST`.

    Returns:
        (inner width, last width); with depth 1, which has no inner level, both are the last.
    """
    inner, last = _most_inner(trie, depth), trie.n_nodes(depth)
    if asked:
        return min(asked, max(inner, last)), min(asked, last)
    return min(inner, WIDEST) or last, last


def _most_inner(trie: Trie, depth: int) -> int:
    """Nodes of the fullest level above the last; 0 without one."""
    return max((trie.n_nodes(level) for level in range(1, depth)), default=0)


def rows_at_once(inner: int, prompt: int) -> int:
    """Rows of a batch whose inner prefixes one pass can hold, each ``prompt`` positions long."""
    return max(1, _CELLS // (inner * (inner + prompt)))


def warn_of_width(space: PrefixSpace) -> None:
    """Say that a search for all prefixes keeps `WIDEST` of a level that has more."""
    most = _most_inner(space.trie, space.length)
    if most > WIDEST:
        logging.getLogger().warning(
            f"decode_beam: 0 would keep {most} prefixes of one level in the beam; the search keeps the best "
            f"{WIDEST}. Name a width: fewer are faster (200 is plenty), more are nearer to exact"
        )


@dataclass(frozen=True)
class PrefixBuckets:
    """The catalogue sorted by prefix: the items of prefix p are ``order[start[p]:start[p + 1]]``.

    Attributes:
        order: int64 [N - 1] item ids (never 0), ascending inside a bucket.
        start: int64 [C + 1].
        place: int64 [N] position of each item inside its own bucket (0 for the padding row).
        prefix: int64 [N] prefix of each item (0 for the padding row).
    """

    order: Tensor
    start: Tensor
    place: Tensor
    prefix: Tensor

    @property
    def n_prefixes(self) -> int:
        """C, empty buckets included."""
        return len(self.start) - 1

    @property
    def sizes(self) -> Tensor:
        """Items per prefix, int64 [C]."""
        return self.start[1:] - self.start[:-1]

    def to(self, device: torch.device | str) -> PrefixBuckets:
        """The same buckets on another device."""
        return PrefixBuckets(
            self.order.to(device), self.start.to(device), self.place.to(device), self.prefix.to(device)
        )


def build_buckets(prefix: Tensor, n_prefixes: int) -> PrefixBuckets:
    """Group items by prefix.

    Args:
        prefix: int64 [N], prefix of each item; row 0 is padding and left out.
        n_prefixes: C.
    """
    real = prefix[1:]
    order = torch.argsort(real, stable=True) + 1
    sizes = torch.bincount(real, minlength=n_prefixes)
    start = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    place = torch.zeros_like(prefix)
    place[order] = torch.arange(len(order), device=order.device) - start[prefix[order]]
    return PrefixBuckets(order, start, place, prefix.clone())


@dataclass(frozen=True)
class SortedItems:
    """Item vectors in the order of their prefixes.

    Attributes:
        vectors: float [n, d]; row j belongs to item ``order[j]``.
        order: int64 [n], item ids (never 0).
        place: int64 [N], row of every item id, -1 for ids that are not in the catalogue.
        start: int64 [C + 1]; the items of prefix p are rows ``start[p]`` up to ``start[p + 1]``.
    """

    vectors: Tensor
    order: Tensor
    place: Tensor
    start: Tensor


def sort_items(items: Tensor, order: Tensor, start: Tensor) -> SortedItems:
    """Bring item vectors [N, d] into prefix order.

    Args:
        items: float [N, d], row 0 is the padding item.
        order: int [n], item ids sorted by prefix: ``PrefixBuckets.order``, or ``Trie.item_of_leaf``.
        start: int [C + 1], where every prefix begins: ``PrefixBuckets.start``, or ``Trie.first_leaf[l]``.
    """
    order = order.long()
    place = torch.full((len(items),), -1, dtype=torch.int64, device=order.device)
    place[order] = torch.arange(len(order), device=order.device)
    return SortedItems(items[order], order, place, start.long())
