"""The catalogue by semantic-ID prefix: which items lie under a prefix, and the tree that prefixes form.

Items are numbered as everywhere (row 0 is padding) and lie here in the order of their codes, so the items
under a prefix of any length are one slice of `ItemsByPrefix.order`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recbole_sigma.tokenization.trie import Trie, build_trie, deduplicate


@dataclass(frozen=True)
class ItemsByPrefix:
    """Items sorted by prefix: those of prefix p are ``order[start[p]:start[p + 1]]``.

    Attributes:
        order: int64 [n] item ids (never 0), ascending inside a prefix.
        start: int64 [C + 1].
        row: int64 [N], where each item stands in ``order``; -1 for ids that are not in the catalogue (0 is
            not).
        prefix: int64 [N], prefix of each item (0 for ids that are not in the catalogue).
    """

    order: Tensor
    start: Tensor
    row: Tensor
    prefix: Tensor

    @property
    def n_prefixes(self) -> int:
        """C, empty prefixes included."""
        return len(self.start) - 1

    @property
    def sizes(self) -> Tensor:
        """Items per prefix, int64 [C]."""
        return self.start[1:] - self.start[:-1]

    def place(self, items: Tensor) -> Tensor:
        """Place of items [...] among those of their prefix, int64 [...]; 0 for ids that are not in the
        catalogue.
        """
        return (self.row[items] - self.start[self.prefix[items]]).clamp_min(0)

    def under(self, prefixes: Tensor) -> tuple[Tensor, Tensor]:
        """The items of prefixes int64 [c], those of one behind those of the other, and how many each has."""
        start = self.start[prefixes]
        sizes = self.start[prefixes + 1] - start
        first = torch.repeat_interleave(start - (sizes.cumsum(0) - sizes), sizes)
        return self.order[first + torch.arange(len(first), device=first.device)], sizes


def group_by_prefix(prefix: Tensor, n_prefixes: int) -> ItemsByPrefix:
    """Sort items by prefix.

    Args:
        prefix: int64 [N], prefix of each item; row 0 is padding and left out.
        n_prefixes: C.
    """
    real = prefix[1:]
    order = torch.argsort(real, stable=True) + 1
    sizes = torch.bincount(real, minlength=n_prefixes)
    start = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    row = torch.full_like(prefix, -1)
    row[order] = torch.arange(len(order), device=order.device)
    return ItemsByPrefix(order, start, row, prefix.clone())


def leaves_by_prefix(trie: Trie, depth: int) -> ItemsByPrefix:
    """The items of a tree under its nodes of one depth."""
    row = trie.leaf_of_item.long()
    prefix = torch.where(row < 0, 0, trie.node_of_leaf(depth, row.clamp_min(0)))
    start = trie.first_leaf[depth].long()
    return ItemsByPrefix(trie.item_of_leaf.long(), start, row, prefix)


@dataclass(frozen=True)
class Catalogue(ItemsByPrefix):
    """`ItemsByPrefix` for prefixes of l codes, with the tree above them.

    Attributes:
        length: l; 0 means one empty prefix over the whole catalogue.
        codes: int64 [N, l].
        nodes: per level, int64 [N]: the node of depth level + 1 that each item lies under (0 for padding).
        trie: l levels of codes, then one that numbers the items of a prefix; its nodes of depth l are the
            prefixes.
    """

    length: int
    codes: Tensor
    nodes: tuple[Tensor, ...]
    trie: Trie

    @property
    def code_sizes(self) -> tuple[int, ...]:
        """Codebook sizes of the l levels."""
        return self.trie.sizes[: self.length]

    def to(self, device: torch.device | str) -> Catalogue:
        """The same catalogue on another device."""
        return replace(
            self,
            order=self.order.to(device),
            start=self.start.to(device),
            row=self.row.to(device),
            prefix=self.prefix.to(device),
            codes=self.codes.to(device),
            nodes=tuple(nodes.to(device) for nodes in self.nodes),
            trie=self.trie.to(device),
        )


def build_catalogue(codes: Tensor, sizes: Sequence[int], length: int) -> Catalogue:
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
    items = leaves_by_prefix(trie, length)
    nodes = tuple(leaves_by_prefix(trie, depth).prefix for depth in range(1, length + 1))
    return Catalogue(items.order, items.start, items.row, items.prefix, length, prefix, nodes, trie)
