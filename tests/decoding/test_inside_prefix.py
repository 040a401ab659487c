"""Item search inside prefixes: brute-force equality, certificate, ties, seen items, prefixes of any
length."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_sigma.decoding import inside_prefix as local
from recbole_sigma.decoding.beam import SeenItems, search_prefixes
from recbole_sigma.decoding.inside_prefix import by_column, search_in_prefixes
from recbole_sigma.tokenization.catalogue import group_by_prefix, leaves_by_prefix
from recbole_sigma.values import UserError
from tests.arithmetic import SCORES, STATES


def catalogue(prefix, vectors):
    """The items by prefix of every item id (row 0 is padding), and their vectors in that order."""
    items = group_by_prefix(prefix, int(prefix.max()) + 1)
    return items, vectors[items.order]


def brute_force(queries, prefix, vectors, log_p, scale, seen, keep_mass=True):
    """[B, N] by its definition; ``queries`` [B, C, d] and ``log_p`` [B, C] by prefix."""
    batch, count = queries.shape[0], len(prefix)
    scores = torch.full((batch, count), -torch.inf, dtype=torch.float64)
    for row in range(batch):
        for p in prefix[1:].unique().tolist():
            members = (prefix == p).nonzero().flatten()
            members = members[members > 0]
            logits = (vectors[members] @ queries[row, p] * scale[row]).double()
            if not keep_mass:
                own = seen[1][seen[0] == row]
                logits = logits.masked_fill(torch.isin(members, own), -torch.inf)
            scores[row, members] = logits.log_softmax(0) + log_p[row, p]
    scores[seen] = -torch.inf
    return scores.masked_fill(scores.isnan(), -torch.inf)


@st.composite
def cases(draw):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    items, codes, batch = draw(st.integers(1, 40)), draw(st.integers(1, 9)), draw(st.integers(1, 4))
    prefix = torch.randint(0, codes, (items + 1,), generator=generator)
    # Small integers make equal scores common and exact.
    vectors = torch.randint(-1, 2, (items + 1, 3), generator=generator).float()
    queries = torch.randint(-1, 2, (batch, codes, 3), generator=generator).float()
    log_p = torch.randint(-3, 0, (batch, codes), generator=generator).float()
    number = draw(st.integers(0, 30))
    seen = (
        torch.randint(0, batch, (number,), generator=generator),
        torch.randint(0, items + 1, (number,), generator=generator),
    )
    return prefix, vectors, queries, log_p, seen


@settings(max_examples=120, deadline=None)
@given(cases(), st.integers(1, 12), st.integers(1, 10), st.booleans(), st.booleans())
def test_lists_equal_brute_force_whatever_the_rounds(case, k, chunk, keep_mass, turned):
    prefix, vectors, queries, log_p, seen = case
    batch, codes = log_p.shape
    scale = torch.linspace(0.5, 2.0, batch)
    present = torch.zeros(codes, dtype=torch.bool).index_fill_(0, prefix[1:].unique(), True)
    shown = log_p.masked_fill(~present, -torch.inf)
    scores, beam = shown.sort(dim=1, descending=True, stable=True)
    beam = beam.masked_fill(scores == -torch.inf, -1)
    rows = torch.arange(batch)[:, None]
    items, ordered = catalogue(prefix, vectors)
    got, used = search_in_prefixes(
        lambda columns, part: queries[rows, part],
        beam,
        scores,
        items,
        by_column(ordered) if turned else ordered,
        k,
        scale,
        seen,
        chunk,
        keep_mass,
    )
    truth = brute_force(queries, prefix, vectors, log_p, scale, seen, keep_mass)
    value, item = truth.sort(dim=1, descending=True, stable=True)
    kept = min(k, truth.shape[1])
    real = value[:, :kept] > -torch.inf
    assert torch.equal(got.items[:, :kept] > 0, real)
    assert torch.allclose(got.scores[:, :kept][real].double(), value[:, :kept][real], **STATES)
    assert used <= codes
    for row in range(batch):
        listed = got.items[row][got.items[row] > 0].tolist()
        assert len(set(listed)) == len(listed)
        for one, two in zip(listed[:-1], listed[1:], strict=True):
            if prefix[one] == prefix[two] and torch.equal(vectors[one], vectors[two]):
                assert one < two


def test_the_certificate_stops_early_and_changes_nothing():
    generator = torch.Generator().manual_seed(0)
    prefix = torch.randint(0, 60, (2001,), generator=generator)
    vectors = torch.randn(2001, 8, generator=generator)
    queries = torch.randn(3, 60, 8, generator=generator) * 3
    scores, beam = (torch.randn(3, 60, generator=generator) * 4).log_softmax(1).sort(dim=1, descending=True)
    rows = torch.arange(3)[:, None]
    items = catalogue(prefix, vectors)
    calls = []

    def query_of(columns, part):
        calls.append(len(columns))
        return queries[rows, part]

    whole, all_used = search_in_prefixes(query_of, beam, scores, *items, 5, chunk=60)
    early, used = search_in_prefixes(query_of, beam, scores, *items, 5, chunk=4)
    assert all_used == 60 and used < 40
    assert sum(calls) == 60 + used
    assert torch.equal(whole.items, early.items)
    assert torch.allclose(whole.scores, early.scores, **STATES)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_prefixes_of_any_length_end_in_the_exact_distribution(shop, models, depth):
    """Trie beam over all prefixes of a depth, then items: equal to the definition, one plain forward pass at
    a time."""
    model, (ids, mask) = models["llama"], shop.prompts(batch=2)
    vectors = torch.randn(301, 32, generator=shop.generator)
    items = leaves_by_prefix(shop.trie, depth)
    seen = shop.seen(batch=2, number=60)
    decoder = shop.decoder(model, ids, mask)
    beams = search_prefixes(decoder, shop.trie, shop.tokens, 600, depth, SeenItems(shop.trie, *seen, 2))

    def query_of(columns, _):
        return decoder.advance(beams.tokens[:, columns], beams.parents[:, columns], keep=False).hidden

    got, _ = search_in_prefixes(
        query_of, beams.nodes, beams.scores, items, vectors[items.order], 20, seen=seen, chunk=33
    )
    truth = torch.full((2, 301), -torch.inf)
    for row in range(2):
        prompt = ids[row][mask[row].bool()]
        paths = torch.unique(shop.paths[:, :depth], dim=0)
        sequence = torch.cat([prompt.expand(len(paths), -1), paths], dim=1)
        with torch.no_grad():
            out = model(sequence, output_hidden_states=True)
        steps = out.logits[:, len(prompt) - 1 : -1].log_softmax(-1).gather(2, paths[..., None])[..., 0].sum(1)
        for path, weight, query in zip(paths, steps, out.hidden_states[-1][:, -1], strict=True):
            members = (shop.paths[:, :depth] == path).all(dim=1).nonzero().flatten() + 1
            truth[row, members] = (vectors[members] @ query).log_softmax(0) + weight
    truth[seen] = -torch.inf
    value, item = truth.sort(dim=1, descending=True, stable=True)
    assert torch.allclose(got.scores, value[:, :20], **SCORES)
    clear = (value[:, :20] - value[:, 1:21]).abs() > 1e-3
    clear[:, 1:] &= clear[:, :-1]
    assert torch.equal(got.items[clear], item[:, :20][clear])


@pytest.mark.parametrize("k", [1, 9, 40])
def test_blocks_of_any_size_give_the_same_lists(monkeypatch, k):
    generator = torch.Generator().manual_seed(1)
    prefix = torch.randint(0, 12, (300,), generator=generator)
    vectors = torch.randn(300, 4, generator=generator)
    queries = torch.randn(5, 12, 4, generator=generator)
    scores, beam = torch.randn(5, 12, generator=generator).log_softmax(1).sort(dim=1, descending=True)
    rows = torch.arange(5)[:, None]
    seen = (
        torch.randint(0, 5, (200,), generator=generator),
        torch.randint(1, 300, (200,), generator=generator),
    )

    def run():
        return search_in_prefixes(
            lambda columns, part: queries[rows, part],
            beam,
            scores,
            *catalogue(prefix, vectors),
            k,
            None,
            seen,
        )[0]

    usual = run()
    monkeypatch.setattr(local, "_CELLS", 1)
    monkeypatch.setattr(local, "_HELD", 0)
    small = run()
    assert torch.equal(usual.items, small.items)
    assert torch.allclose(usual.scores, small.scores, **STATES)
    usual.scores[:, 0] = 0.0  # an ordinary tensor: callers may write to it


def test_equal_items_go_by_their_ids_in_prefixes_of_any_size():
    """Hundreds of equal scores, more than a list holds and more than are held before they are cut."""
    prefix = torch.arange(1500) % 3
    seen = (torch.tensor([0, 0]), torch.tensor([1, 2]))
    got, _ = search_in_prefixes(
        lambda columns, part: torch.ones(2, len(columns), 2),
        torch.tensor([[2, 1, 0]] * 2),
        torch.tensor([[-0.5, -0.5, -1.0]] * 2),
        *catalogue(prefix, torch.zeros(1500, 2)),
        7,
        seen=seen,
    )
    assert got.items.tolist() == [[4, 5, 7, 8, 10, 11, 13], [1, 2, 4, 5, 7, 8, 10]]


def test_empty_beams_and_everything_seen_give_empty_lists():
    prefix = torch.tensor([0, 0, 1, 1])
    items = catalogue(prefix, torch.ones(4, 2))
    beam, scores = torch.tensor([[1, 0], [-1, -1]]), torch.tensor([[-0.5, -1.0], [-torch.inf, -torch.inf]])
    seen = (torch.tensor([0, 0, 0]), torch.tensor([1, 2, 3]))
    ones = lambda columns, part: torch.ones(2, len(columns), 2)  # noqa: E731
    got, _ = search_in_prefixes(ones, beam, scores, *items, 3, None, seen)
    assert got.short.tolist() == [3, 3]
    got, _ = search_in_prefixes(ones, beam, scores, *items, 3, None, None)
    assert got.items.tolist() == [[1, 2, 3], [0, 0, 0]]
    assert got.short.tolist() == [0, 3]


def test_a_prefix_without_items_in_the_beam_does_no_harm():
    items = catalogue(torch.tensor([0, 0, 2]), torch.ones(3, 2))
    got, _ = search_in_prefixes(
        lambda c, p: torch.ones(1, len(c), 2),
        torch.tensor([[1, 0, 2]]),
        torch.tensor([[-0.1, -0.5, -2.0]]),
        *items,
        3,
    )
    assert got.items.tolist() == [[1, 2, 0]]
    assert got.scores[0, :2].tolist() == pytest.approx([-0.5, -2.0])


def test_nan_is_refused():
    items = catalogue(torch.tensor([0, 0, 0]), torch.full((3, 2), torch.nan))
    with pytest.raises(UserError, match="NaN"):
        search_in_prefixes(
            lambda c, p: torch.ones(1, 1, 2), torch.tensor([[0]]), torch.zeros(1, 1), *items, 1
        )
