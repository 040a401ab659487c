from __future__ import annotations

import pytest
import torch

from recbole_sigma.decoding.exact import exact_top_k, prefix_survival, score_items
from recbole_sigma.values import RankedItems
from tests.arithmetic import SCORES


def test_teacher_forcing_equals_plain_forward_passes(shop, model):
    ids, mask = shop.prompts()
    got = score_items(shop.decoder(model, ids, mask), shop.trie, shop.tokens, chunk=37)
    expected = shop.brute_force(model, ids, mask)
    assert torch.equal(got > -torch.inf, expected > -torch.inf)
    assert torch.allclose(got[:, 1:], expected[:, 1:], **SCORES)


@pytest.mark.parametrize("score", ["vocab", "level"])
def test_certified_search_finds_the_true_best(shop, model, score):
    ids, mask = shop.prompts()
    seen = shop.seen(number=120)
    beam = shop.search(model, ids, mask, 15, 15, seen=seen, score=score)
    truth = score_items(shop.decoder(model, ids, mask), shop.trie, shop.tokens, score)
    truth[seen] = -torch.inf
    value, item = truth.sort(dim=1, descending=True, stable=True)
    exact = exact_top_k(
        shop.decoder(model, ids, mask), shop.trie, shop.tokens, 15, beam.scores[:, -1], seen, score, chunk=16
    )
    assert torch.allclose(exact.scores, value[:, :15], **SCORES)
    assert torch.equal(exact.items, item[:, :15])
    free = exact_top_k(
        shop.decoder(model, ids, mask), shop.trie, shop.tokens, 15, torch.full((4,), -torch.inf), seen, score
    )
    assert torch.equal(free.items, exact.items)


def test_a_bound_spares_forward_positions(shop, models):
    ids, mask = shop.prompts()
    full, pruned = (shop.decoder(models["llama"], ids, mask) for _ in range(2))
    bound = shop.search(models["llama"], ids, mask, 5, 50).scores[:, -1]
    a = exact_top_k(full, shop.trie, shop.tokens, 5, torch.full((4,), -torch.inf))
    b = exact_top_k(pruned, shop.trie, shop.tokens, 5, bound)
    assert torch.equal(a.items, b.items)
    assert sum(pruned.forwarded) < sum(full.forwarded)


def test_exact_lists_run_short_like_the_beam(shop_factory, make_model):
    shop = shop_factory(6, size=2)
    model = make_model("t5", shop.vocabulary)
    ids, mask = shop.prompts()
    seen = (torch.tensor([0, 0, 1]), torch.tensor([1, 2, 3]))
    got = exact_top_k(
        shop.decoder(model, ids, mask), shop.trie, shop.tokens, 9, torch.full((4,), -torch.inf), seen
    )
    assert got.short.tolist() == [5, 4, 3, 3]
    assert got.items[0, :4].sort().values.tolist() == [3, 4, 5, 6]


def test_prefix_survival_is_the_kept_share_of_the_exact_list():
    exact = RankedItems(torch.tensor([[4, 2, 9, 1], [5, 0, 0, 0], [0, 0, 0, 0]]), torch.zeros(3, 4))
    kept = RankedItems(torch.tensor([[2, 7, 4], [6, 0, 0], [0, 0, 0]]), torch.zeros(3, 3))
    assert prefix_survival(exact, kept).tolist() == [0.5, 0.0, 1.0]


def test_a_wide_enough_beam_survives_entirely(shop, models):
    ids, mask = shop.prompts()
    wide = shop.search(models["t5"], ids, mask, 20, 300)
    exact = exact_top_k(shop.decoder(models["t5"], ids, mask), shop.trie, shop.tokens, 20, wide.scores[:, -1])
    assert prefix_survival(exact, wide).tolist() == [1.0] * 4
