"""Approximate search inside prefixes: what it may miss is measured, what it promises holds."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from recbole_sigma.decoding.approximate import index_prefixes, search_cells
from recbole_sigma.decoding.inside_prefix import search_in_prefixes
from recbole_sigma.tokenization.catalogue import sort_items
from recbole_sigma.values import UserError

USERS, K = 12, 10


@pytest.fixture(scope="module")
def shop():
    """Items around 60 planted centres in four prefixes of 3000, 2000, 40 and 8 items; queries near items."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor([40, 3000, 8, 2000])
    count = int(sizes.sum())
    centres = F.normalize(torch.randn(60, 16, generator=generator), dim=1)
    rows = centres[torch.randint(60, (count,), generator=generator)]
    rows = F.normalize(rows + 0.1 * torch.randn(count, 16, generator=generator), dim=1)
    start = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    order = torch.randperm(count, generator=generator) + 1
    table = torch.zeros(count + 1, 16)
    table[order] = rows
    near = rows[torch.randint(count, (USERS,), generator=generator)]
    queries = F.normalize(near + 0.1 * torch.randn(USERS, 16, generator=generator), dim=1) / 0.1
    beam = torch.stack([torch.randperm(4, generator=generator) for _ in range(USERS)])
    scores = torch.randn(USERS, 4, generator=generator).log_softmax(1).sort(1, descending=True).values
    return sort_items(table, order, start), queries, beam, scores


def search(shop, index=None, **options):
    items, queries, beam, scores = shop
    query_of = lambda columns, _: queries[:, None].expand(-1, len(columns), -1)  # noqa: E731
    return search_in_prefixes(query_of, beam, scores, items, K, approximate=index, **options)[0]


def seen_of(shop, exact, number=4):
    """The best items of every user, named twice, and some others."""
    row = torch.arange(USERS).repeat_interleave(number)
    item = exact.items[:, :number].flatten()
    return torch.cat([row, row, row]), torch.cat([item, item, (item * 7) % len(shop[0].place)])


def test_recall_on_planted_clusters_and_the_normaliser(shop):
    items, queries, *_ = shop
    index = index_prefixes(items.vectors, items.start, 100, probes=12)
    assert sorted(index.cells) == [1, 3]
    nobody = (torch.zeros(0, dtype=torch.int64),) * 2
    for prefix, cells in index.cells.items():
        low, high = items.start[prefix : prefix + 2].tolist()
        logits = queries @ items.vectors[low:high].T
        found, rows, total = search_cells(queries, cells, 12, 100, nobody, True)
        assert torch.allclose(found, logits.gather(1, rows), atol=1e-4)
        best = logits.topk(K).indices
        recall = (best[:, :, None] == rows[:, None]).any(2).float().mean()
        assert recall >= 0.9
        exact = logits.logsumexp(1)
        assert float((total - exact).abs().mean()) <= 0.1
        assert bool((total >= found.logsumexp(1) - 1e-5).all())
    exact, got = search(shop), search(shop, index)
    overlap = (exact.items[:, :, None] == got.items[:, None]).any(2).float().mean()
    assert overlap >= 0.9
    assert bool((got.scores[:, 0] <= 0).all())


def test_a_threshold_above_every_prefix_is_the_exact_path(shop):
    items = shop[0]
    index = index_prefixes(items.vectors, items.start, 3000)
    assert not index.cells
    seen = seen_of(shop, search(shop))
    for options in ({}, {"seen": seen}, {"seen": seen, "seen_keep_mass": False, "chunk": 1}):
        exact, same = search(shop, **options), search(shop, index, **options)
        assert torch.equal(exact.items, same.items) and torch.equal(exact.scores, same.scores)


@pytest.mark.parametrize("keep_mass", [True, False])
def test_all_cells_and_all_rows_are_exact(shop, keep_mass):
    items = shop[0]
    seen = seen_of(shop, search(shop))
    index = index_prefixes(items.vectors, items.start, 100, probes=10_000, fetch=3000)
    exact = search(shop, seen=seen, seen_keep_mass=keep_mass)
    got = search(shop, index, seen=seen, seen_keep_mass=keep_mass)
    assert torch.equal(exact.items, got.items)
    assert torch.allclose(exact.scores, got.scores, atol=1e-4)


@pytest.mark.parametrize("keep_mass", [True, False])
def test_seen_items_are_never_listed_and_their_mass_is_handled(shop, keep_mass):
    items = shop[0]
    seen = seen_of(shop, search(shop))
    index = index_prefixes(items.vectors, items.start, 100, probes=12)
    got = search(shop, index, seen=seen, seen_keep_mass=keep_mass)
    forbidden = set(zip(*(part.tolist() for part in seen)))
    assert not forbidden & {(row, item) for row in range(USERS) for item in got.items[row].tolist()}
    exact = search(shop, seen=seen, seen_keep_mass=keep_mass)
    same = got.items == exact.items
    assert same.float().mean() > 0.8
    assert float((got.scores[same] - exact.scores[same]).abs().mean()) <= 0.1


def test_lists_are_full_although_a_probed_cell_holds_too_little(shop):
    items, queries, _, _ = shop
    index = index_prefixes(items.vectors, items.start, 100, probes=1, fetch=1)
    beam, scores = torch.full((USERS, 1), 3), torch.zeros(USERS, 1)
    seen = (torch.zeros(1990, dtype=torch.int64), items.order[items.start[3] : items.start[3] + 1990])
    got, _ = search_in_prefixes(
        lambda c, _: queries[:, None], beam, scores, items, K, seen=seen, approximate=index
    )
    assert got.short.tolist() == [0] * USERS
    assert set(got.items[0].tolist()) == set(items.order[items.start[4] - 10 : items.start[4]].tolist())


def test_the_same_seed_gives_the_same_cells(shop):
    items = shop[0]
    one, two = (index_prefixes(items.vectors, items.start, 100, seed=3) for _ in range(2))
    assert torch.equal(one.cells[1].cell, two.cells[1].cell)


@pytest.mark.parametrize("name", ["threshold", "probes", "fetch"])
def test_hostile_values_are_refused(shop, name):
    items = shop[0]
    with pytest.raises(UserError, match=f"the {name} of an approximate search must be at least 1, not 0"):
        index_prefixes(items.vectors, items.start, **{"threshold": 10, name: 0})
