from __future__ import annotations

import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_sigma.tokenization.trie import END, build_trie, contiguous_tokens, deduplicate
from recbole_sigma.values import UserError

PADDING = [[0, 0, 0]]


@st.composite
def distinct_codes(draw):
    """Random code tables [N, L] with distinct real rows and a padding row 0."""
    levels = draw(st.integers(1, 4))
    sizes = draw(st.lists(st.integers(1, 6), min_size=levels, max_size=levels))
    row = st.tuples(*(st.integers(0, size - 1) for size in sizes))
    rows = draw(st.lists(row, min_size=1, max_size=40, unique=True))
    return torch.tensor([[0] * levels, *rows]), sizes


def by_prefix(codes):
    """{prefix: [items]} for every prefix of every real row."""
    found = {}
    for item, row in enumerate(codes.tolist()[1:], start=1):
        for depth in range(len(row) + 1):
            found.setdefault(tuple(row[:depth]), []).append(item)
    return found


@settings(max_examples=60, deadline=None)
@given(distinct_codes())
def test_every_node_holds_exactly_the_items_with_its_prefix(table):
    codes, sizes = table
    trie = build_trie(codes, sizes)
    expected = by_prefix(codes)
    assert trie.n_items == len(codes) - 1
    assert trie.sizes == tuple(sizes) and trie.ends == (None,) * len(sizes)
    for depth in range(trie.depth + 1):
        nodes = torch.arange(trie.n_nodes(depth))
        prefixes = [tuple(row) for row in trie.codes_of(depth, nodes).tolist()]
        assert prefixes == sorted(p for p in expected if len(p) == depth)
        start, count = trie.leaves(depth, nodes)
        for prefix, first, number in zip(prefixes, start.tolist(), count.tolist(), strict=True):
            assert sorted(trie.item_of_leaf[first : first + number].tolist()) == expected[prefix]
            assert trie.find(prefix) == prefixes.index(prefix)
    everyone = torch.arange(trie.n_items)
    assert trie.leaf_of_item[trie.item_of_leaf.long()].tolist() == everyone.tolist()
    assert int(trie.leaf_of_item[0]) == -1
    assert trie.codes_of(trie.depth, trie.leaf_of_item[1:].long()).tolist() == codes[1:].tolist()


@settings(max_examples=40, deadline=None)
@given(distinct_codes())
def test_children_parents_and_dense_tables_agree(table):
    codes, sizes = table
    trie, dense = build_trie(codes, sizes), build_trie(codes, sizes, dense_cells=10_000)
    for level, size in enumerate(sizes):
        nodes = torch.arange(trie.n_nodes(level))
        start, degree = trie.children(level, nodes)
        assert int(degree.sum()) == trie.n_nodes(level + 1) and bool((degree > 0).all())
        table = dense.dense[level]
        assert trie.dense[level] is None and table.shape == (len(nodes), size)
        for node in nodes.tolist():
            kids = torch.arange(int(start[node]), int(start[node] + degree[node]))
            assert trie.parent(level + 1, kids).tolist() == [node] * len(kids)
            row = torch.full((size,), -1)
            row[trie.tokens[level][kids].long()] = kids - start[node]
            assert table[node].tolist() == row.tolist()
        leaves = torch.arange(trie.n_items)
        first, count = trie.leaves(level, nodes)
        assert trie.node_of_leaf(level, leaves).tolist() == torch.repeat_interleave(nodes, count).tolist()
        assert first.tolist() == (count.cumsum(0) - count).tolist()


def test_find_answers_minus_one_for_a_prefix_nobody_has():
    trie = build_trie(torch.tensor([[0, 0], [1, 2], [1, 0]]))
    assert trie.find([1]) == 0
    assert trie.find([0]) == -1
    assert trie.find([1, 1]) == -1


def test_item_ids_need_not_be_consecutive():
    trie = build_trie(torch.tensor([[1], [0]]), items=torch.tensor([7, 3]))
    assert trie.item_of_leaf.tolist() == [3, 7]
    assert trie.leaf_of_item.tolist() == [-1, -1, -1, 0, -1, -1, -1, 1]


def test_huge_codebooks_do_not_overflow_the_sort_key():
    generator = torch.Generator().manual_seed(0)
    size = 2**31 - 1
    codes = torch.randint(0, size, (200, 5), generator=generator)
    codes[1:100, :4] = codes[100:199, :4]
    trie = build_trie(codes, [size] * 5)
    expected = sorted(range(1, 200), key=lambda item: codes[item].tolist())
    assert trie.item_of_leaf.tolist() == expected
    assert trie.codes_of(5, torch.arange(199)).tolist() == [codes[item].tolist() for item in expected]


def test_codes_of_different_length_get_a_reserved_end_code():
    codes = torch.tensor([[0, 0, 0], [1, 2, END], [1, 0, 0], [1, 0, 1], [0, END, END]])
    trie = build_trie(codes, [2, 3, 2])
    assert trie.sizes == (2, 4, 3)
    assert trie.ends == (None, 3, 2)
    assert trie.codes_of(3, trie.leaf_of_item[1:].long()).tolist() == [
        [1, 2, 2],
        [1, 0, 0],
        [1, 0, 1],
        [0, 3, 2],
    ]


def test_deduplicate_counts_within_groups_of_equal_codes():
    codes = torch.tensor([*PADDING, [5, 1, 0], [2, 2, 2], [5, 1, 0], [0, 0, 0], [5, 1, 0], [2, 2, 2]])
    unique, size = deduplicate(codes)
    assert size == 3
    assert unique[:, :3].tolist() == codes.tolist()
    assert unique[:, 3].tolist() == [0, 0, 0, 1, 0, 2, 1]
    sparse, _ = deduplicate(codes, only_on_collision=True)
    assert sparse[:, 3].tolist() == [0, 0, 0, 1, END, 2, 1]
    trie = build_trie(sparse)
    assert trie.ends == (None, None, None, 3)
    assert trie.n_items == 6


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=40), st.booleans())
def test_deduplicated_codes_always_build_a_trie(rows, only_on_collision):
    codes, size = deduplicate(torch.tensor([(0, 0), *rows]), only_on_collision)
    assert size == max(rows.count(row) for row in rows)
    assert build_trie(codes).n_items == len(rows)


@pytest.mark.parametrize(
    ("codes", "options", "sentence"),
    [
        (
            torch.tensor([[0, 0], [1, 2], [0, 1], [1, 2]]),
            {},
            "items 1 and 3 have the same semantic ID .1, 2.*deduplicate",
        ),
        (torch.tensor([[0, 0], [1, 7]]), {"sizes": [2, 4]}, "item 1 has code 7 at level 2.*4 entries"),
        (torch.tensor([[0, 0], [1, 2**32 + 5]]), {}, "codebook of 4294967302 entries is too large"),
        (torch.tensor([[0, 0], [1, -2]]), {}, "item 1 has code -2 at level 2"),
        (torch.tensor([[0, 0]]), {}, "catalogue is empty"),
        (torch.tensor([[0.0, 0.0], [1.0, 2.0]]), {}, "integer table"),
        (torch.tensor([0, 1]), {}, "integer table"),
        (torch.tensor([[0, 0, 0], [1, END, 1]]), {}, r"item 1 is \[1, -1, 1\]"),
        (torch.tensor([[0, 0], [END, END]]), {}, "item 1"),
        (torch.tensor([[0, 0], [1, 1]]), {"sizes": [2]}, "2 levels but 1 codebook"),
        (torch.tensor([[0, 0], [1, 1]]), {"items": torch.tensor([4, 4])}, "item id 4 occurs twice"),
        (torch.tensor([[0, 0], [1, 1]]), {"items": torch.tensor([0, 4])}, "0 is the padding item"),
        (torch.tensor([[0, 0], [1, 1]]), {"items": torch.tensor([4])}, "2 codes came with 1 item ids"),
    ],
)
def test_bad_input_is_refused_with_a_sentence(codes, options, sentence):
    with pytest.raises(UserError, match=sentence):
        build_trie(codes, **options)


def test_deduplicate_refuses_an_empty_catalogue():
    with pytest.raises(UserError, match="no item"):
        deduplicate(torch.zeros(1, 3, dtype=torch.int64))


def test_contiguous_tokens_follow_each_other():
    assert [t.tolist() for t in contiguous_tokens([2, 3], 10)] == [[10, 11], [12, 13, 14]]


def test_moving_keeps_shared_arrays_shared():
    trie = build_trie(torch.tensor([[0, 0], [1, 2], [0, 1], [1, 1]]), dense_cells=100)
    moved = trie.to("cpu")
    assert moved.nbytes == trie.nbytes
    assert moved.codes_of(2, torch.arange(3)).tolist() == trie.codes_of(2, torch.arange(3)).tolist()


def test_a_million_items_build_fast_and_small():
    generator = torch.Generator().manual_seed(0)
    codes, size = deduplicate(torch.randint(0, 256, (1_000_001, 3), generator=generator))
    start = time.process_time()
    trie = build_trie(codes, [256, 256, 256, size])
    seconds = time.process_time() - start
    assert trie.n_items == 1_000_000
    assert trie.nbytes <= 16e6
    assert seconds <= 1.25
