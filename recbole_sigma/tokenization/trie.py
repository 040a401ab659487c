"""The catalogue as a prefix tree over semantic IDs: level-ordered arrays, no Python objects per node.

Items are sorted by code. The nodes of depth ``l`` are then the distinct ``l``-prefixes in sorted order, the
children of a node are neighbours at depth ``l + 1``, and the items under a node are one contiguous run of
*leaves*. Three arrays per level therefore hold the whole tree; a child's id is ``start of its parent's
children + j``, so no next-state column exists.

Depth 0 is the root (one node), depth ``L`` are the leaves (one per item). Level ``l`` (0-based) leads from
depth ``l`` to depth ``l + 1``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recbole_sigma.values import UserError

END = -1
"""Marks, in a code row, the levels after the end of a shorter code (only at the row's tail)."""

_KEY_LIMIT = 2**62


@dataclass(frozen=True)
class Trie:
    """A prefix tree over item codes; build it with :func:`build_trie`.

    Attributes:
        sizes: (K_1, ..., K_L), the number of codes of every level, the reserved end code included.
        ends: per level, the reserved code that says "this item's code is over", or None where no code ends
            early.
        pointers: L tensors int32 [nodes(l) + 1]; ``pointers[l][n]`` is the first child (a node of depth l +
            1) of node n.
        tokens: L tensors uint8/int16/int32 [nodes(l + 1)]; the code on the edge into a node of depth l + 1.
        first_leaf: L tensors int32 [nodes(l) + 1]; node n of depth l < L covers the leaves from
            ``first_leaf[l][n]`` up to ``first_leaf[l][n + 1]`` (a node of depth L is its own leaf, which
            needs no table).
        item_of_leaf: int32 [n_items]; leaf -> item id.
        leaf_of_item: int32 [N]; item id -> leaf, -1 for ids that are not in the catalogue (0, the padding
            item, always).
        dense: per level, None or [nodes(l), K_l], int16 (int32 for codebooks beyond 32,767): which of its
            parent's children a code leads to, -1 where there is none.
    """

    sizes: tuple[int, ...]
    ends: tuple[int | None, ...]
    pointers: tuple[Tensor, ...]
    tokens: tuple[Tensor, ...]
    first_leaf: tuple[Tensor, ...]
    item_of_leaf: Tensor
    leaf_of_item: Tensor
    dense: tuple[Tensor | None, ...]

    @property
    def depth(self) -> int:
        """Number of levels L."""
        return len(self.sizes)

    @property
    def n_items(self) -> int:
        """Number of items (leaves)."""
        return self.item_of_leaf.numel()

    @property
    def nbytes(self) -> int:
        """Bytes held by all arrays; arrays that two fields share are counted once."""
        held = {t.data_ptr(): t.numel() * t.element_size() for t in self._tensors()}
        return sum(held.values())

    def n_nodes(self, depth: int) -> int:
        """Number of nodes at a depth, 1 for the root."""
        return self.n_items if depth == self.depth else self.first_leaf[depth].numel() - 1

    def children(self, depth: int, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """First child (a node of ``depth + 1``) and number of children of every node, int64."""
        pointer = self.pointers[depth]
        start = pointer[nodes].long()
        return start, pointer[nodes + 1].long() - start

    def leaves(self, depth: int, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """First leaf and number of leaves under every node: its contiguous slice of :attr:`item_of_leaf`."""
        if depth == self.depth:
            return nodes.long(), torch.ones_like(nodes, dtype=torch.int64)
        first = self.first_leaf[depth]
        start = first[nodes].long()
        return start, first[nodes + 1].long() - start

    def node_of_leaf(self, depth: int, leaves: Tensor) -> Tensor:
        """The ancestor at ``depth`` of every leaf, int64 like ``leaves``."""
        if depth == self.depth:
            return leaves.long()
        first = self.first_leaf[depth]
        return torch.searchsorted(first, leaves.to(first.dtype).contiguous(), right=True) - 1

    def parent(self, depth: int, nodes: Tensor) -> Tensor:
        """The parent (a node of ``depth - 1``) of every node of ``depth`` >= 1."""
        pointer = self.pointers[depth - 1]
        return torch.searchsorted(pointer, nodes.to(pointer.dtype).contiguous(), right=True) - 1

    def codes_of(self, depth: int, nodes: Tensor) -> Tensor:
        """The code prefix that leads to every node, int64 [*nodes.shape, depth]."""
        columns: list[Tensor] = []
        for level in range(depth, 0, -1):
            columns.append(self.tokens[level - 1][nodes].long())
            nodes = self.parent(level, nodes)
        if not columns:
            return nodes.new_zeros((*nodes.shape, 0), dtype=torch.int64)
        return torch.stack(columns[::-1], dim=-1)

    def find(self, prefix: Sequence[int]) -> int:
        """The node that a code prefix leads to, or -1. For inspection, not for inner loops."""
        node = 0
        for level, code in enumerate(prefix):
            start, stop = self.pointers[level][node : node + 2].tolist()
            hit = (self.tokens[level][start:stop] == code).nonzero()
            if not len(hit):
                return -1
            node = start + int(hit[0])
        return node

    def to(self, device: torch.device | str) -> Trie:
        """The same tree on another device; tensors shared between fields stay shared."""
        moved = {id(t): t.to(device) for t in self._tensors()}
        return Trie(
            self.sizes,
            self.ends,
            tuple(moved[id(t)] for t in self.pointers),
            tuple(moved[id(t)] for t in self.tokens),
            tuple(moved[id(t)] for t in self.first_leaf),
            moved[id(self.item_of_leaf)],
            moved[id(self.leaf_of_item)],
            tuple(None if t is None else moved[id(t)] for t in self.dense),
        )

    def _tensors(self) -> list[Tensor]:
        own = [*self.pointers, *self.tokens, *self.first_leaf, self.item_of_leaf, self.leaf_of_item]
        return own + [t for t in self.dense if t is not None]


def build_trie(
    codes: Tensor, sizes: Sequence[int] | None = None, items: Tensor | None = None, dense_cells: int = 0
) -> Trie:
    """Build the tree from semantic IDs.

    Args:
        codes: integer [N, L]. Without ``items`` row i is item i and row 0 (padding) is left out; with
            ``items`` every row counts. A row may end early: its remaining levels are then ``END`` (-1) and
            are stored under a reserved code of their level.
        sizes: (K_1, ..., K_L); default: the largest code of each level + 1. The reserved end code of a level,
            where one is needed, is K_l and makes the level one larger.
        items: int [N], positive ids of the rows, for a catalogue that is not 1..N-1.
        dense_cells: levels whose nodes x K_l is at most this many cells get a dense child table (int32) as
            well.

    Returns:
        The tree, on the CPU.

    Raises:
        UserError: an empty catalogue, a code outside its level, an end in the middle of a code, a repeated
            item id, or two items with the same full code (see :func:`deduplicate`).
    """
    codes, items, sizes = _checked(codes, sizes, items)
    ends: list[int | None] = [None] * codes.shape[1]
    if int(codes.min()) == END:
        ended = codes.eq(END)
        codes = codes.clone()
        for level in ended.any(dim=0).nonzero().flatten().tolist():
            ends[level] = sizes[level]
            codes[ended[:, level], level] = sizes[level]
            sizes[level] += 1

    by_level = codes.T.contiguous()  # a column that lies in one piece is gathered twice as fast
    order = _sorted_rows(by_level, sizes)
    columns = [column[order] for column in by_level]
    count = len(order)
    starts_run = torch.zeros(count, dtype=torch.bool)
    starts_run[0] = True
    first_leaf = [torch.tensor([0, count], dtype=torch.int32)]
    pointers: list[Tensor] = []
    tokens: list[Tensor] = []
    for level, column in enumerate(columns):
        starts_run[1:] |= column[1:] != column[:-1]
        first = starts_run.nonzero().flatten()
        tokens.append(column[first].to(_token_dtype(sizes[level])))
        bounds = torch.cat([first, first.new_tensor([count])]).to(torch.int32)
        # A parent begins exactly where its first child begins, so its pointer is that child's rank.
        pointers.append(torch.searchsorted(bounds, first_leaf[-1], out_int32=True))
        first_leaf.append(bounds)
    if not bool(starts_run.all()):
        _refuse_duplicates(starts_run, order, codes, items)
    # The last level's children are the leaves themselves: its pointers and its leaf runs are one table.
    first_leaf = [*first_leaf[:-2], pointers[-1]]

    leaf_of_item = torch.full((int(items.max()) + 1,), -1, dtype=torch.int32)
    item_of_leaf = items[order].to(torch.int32)
    leaf_of_item[item_of_leaf.long()] = torch.arange(count, dtype=torch.int32)
    dense = [
        _dense_table(pointers[level], tokens[level], size)
        if 0 < (pointers[level].numel() - 1) * size <= dense_cells
        else None
        for level, size in enumerate(sizes)
    ]
    return Trie(
        tuple(sizes),
        tuple(ends),
        tuple(pointers),
        tuple(tokens),
        tuple(first_leaf),
        item_of_leaf,
        leaf_of_item,
        tuple(dense),
    )


def deduplicate(codes: Tensor, only_on_collision: bool = False) -> tuple[Tensor, int]:
    """Append a level that tells items with the same code apart (TIGER, arXiv 2305.05065, section 3.1).

    Args:
        codes: integer [N, L]; row 0 is padding and stays zero.
        only_on_collision: give the digit to colliding items only; the codes of all others end (``END``) one
            level early.

    Returns:
        codes int64 [N, L + 1] whose last level counts 0, 1, ... within every group of equal codes, in the
        order of item ids, and the size of that level.
    """
    real = codes[1:].long()
    if not len(real):
        raise UserError("there is no item to give a de-duplication digit: codes hold only the padding row.")
    sizes = [int(real[:, level].max()) + 1 for level in range(real.shape[1])]
    order = _sorted_rows(real.T, sizes)
    ordered = real[order]
    changed = torch.ones(len(real), dtype=torch.bool)
    changed[1:] = (ordered[1:] != ordered[:-1]).any(dim=1)
    position = torch.arange(len(real))
    digit_in_order = position - torch.cummax(torch.where(changed, position, 0), dim=0).values
    alone = changed & torch.cat([changed[1:], torch.ones(1, dtype=torch.bool)])
    size = int(digit_in_order.max()) + 1
    if only_on_collision:
        digit_in_order = torch.where(alone, END, digit_in_order)
    digit = torch.empty_like(digit_in_order)
    digit[order] = digit_in_order
    padding = torch.zeros(1, real.shape[1] + 1, dtype=torch.int64)
    return torch.cat([padding, torch.cat([real, digit[:, None]], dim=1)]), size


def contiguous_tokens(sizes: Sequence[int], offset: int) -> list[Tensor]:
    """Vocabulary ids of every level's codes when the levels follow each other from ``offset`` on."""
    tokens = []
    for size in sizes:
        tokens.append(torch.arange(offset, offset + size))
        offset += size
    return tokens


def _checked(
    codes: Tensor, sizes: Sequence[int] | None, items: Tensor | None
) -> tuple[Tensor, Tensor, list[int]]:
    if codes.dim() != 2 or codes.shape[1] == 0 or codes.is_floating_point() or codes.dtype == torch.bool:
        raise UserError(
            f"semantic IDs must be an integer table [items, levels], got {codes.dtype} {tuple(codes.shape)}."
        )
    codes = codes.cpu().long()
    named = items is not None
    if items is None:
        codes = codes[1:]
        items = torch.arange(1, len(codes) + 1)
    items = items.cpu().long().flatten()
    if len(items) != len(codes):
        raise UserError(f"{len(codes)} codes came with {len(items)} item ids: give one id per row.")
    if not len(codes):
        raise UserError("the catalogue is empty: there is no item to build a trie from.")
    if len(codes) >= 2**31 or int(items.max()) >= 2**31:
        raise UserError(f"a trie addresses items with 32 bits, {len(codes)} items are too many.")
    if int(items.min()) < 1:
        raise UserError(
            f"item id {int(items.min())} is not a real item: ids start at 1, 0 is the padding item."
        )
    if named and len(torch.unique(items)) != len(items):
        values, counts = torch.unique(items, return_counts=True)
        raise UserError(
            f"item id {int(values[counts > 1][0])} occurs twice among the rows of the semantic IDs."
        )
    top = codes.max(dim=0).values.tolist()
    widths = [max(t + 1, 1) for t in top] if sizes is None else [int(s) for s in sizes]
    if len(widths) != codes.shape[1]:
        raise UserError(
            f"the codes have {codes.shape[1]} levels but {len(widths)} codebook sizes were given."
        )
    if max(widths) > 2**31 - 1:  # one more than the codebook where codes differ in length
        raise UserError(f"a trie holds codes with 32 bits, a codebook of {max(widths)} entries is too large.")
    lowest = int(codes.min())
    if lowest < END or any(t >= width for t, width in zip(top, widths, strict=True)):
        bad = (codes < END) | (codes >= torch.tensor(widths))
        row, level = bad.nonzero()[0].tolist()
        raise UserError(
            f"item {int(items[row])} has code {int(codes[row, level])} at level {level + 1}, but that "
            f"level's codebook has {widths[level]} entries: the codes belong to another quantizer."
        )
    if lowest > END:
        return codes, items, widths
    ended = codes.eq(END)
    resumed = ended[:, :-1] & ~ended[:, 1:]
    hollow = ended[:, 0] if not bool(resumed.any()) else resumed.any(dim=1)
    if bool(hollow.any()):
        row = int(hollow.nonzero()[0])
        raise UserError(
            f"the code of item {int(items[row])} is {codes[row].tolist()}: -1 may only fill the levels after "
            "a code's end."
        )
    return codes, items, widths


def _sorted_rows(columns: Tensor, sizes: Sequence[int]) -> Tensor:
    """The rows in the order of their codes, ties by row: int64 [N].

    Args:
        columns: int64 [L, N], codes by level.
        sizes: codes of each level.
    """
    key, bound = columns[0], sizes[0]  # one number per row that orders rows as their codes do
    for column, size in zip(columns[1:], sizes[1:], strict=True):
        if bound * size >= _KEY_LIMIT:  # keys become ranks before they overflow
            distinct, key = torch.unique(key, return_inverse=True)
            bound = len(distinct)
        key = key * size + column
        bound *= size
    shift = len(key).bit_length()
    if bound << shift >= _KEY_LIMIT:
        return torch.argsort(key, stable=True)
    # the row number in the low bits breaks ties and comes out with the key: numbers sort faster than places
    joined = np.sort(((key << shift) | torch.arange(len(key))).numpy())
    return torch.from_numpy(joined & ((1 << shift) - 1))


def _token_dtype(size: int) -> torch.dtype:
    if size <= 2**8:
        return torch.uint8
    return torch.int16 if size <= 2**15 else torch.int32


def _dense_table(pointer: Tensor, token: Tensor, size: int) -> Tensor:
    nodes = pointer.numel() - 1
    table = torch.full((nodes, size), -1, dtype=torch.int16 if size < 2**15 else torch.int32)
    parent = torch.repeat_interleave(torch.arange(nodes), (pointer[1:] - pointer[:-1]).long())
    table[parent, token.long()] = (torch.arange(len(token)) - pointer[parent]).to(table.dtype)
    return table


def _refuse_duplicates(starts_run: Tensor, order: Tensor, codes: Tensor, items: Tensor) -> None:
    later = int((~starts_run).nonzero()[0])
    first, second = order[later - 1], order[later]
    surplus = int((~starts_run).sum())
    raise UserError(
        f"items {int(items[first])} and {int(items[second])} have the same semantic ID "
        f"{codes[first].tolist()} ({surplus} such surplus item(s) in all), so a generated code would not "
        "name one item: append a de-duplication level with recbole_sigma.tokenization.trie.deduplicate."
    )
