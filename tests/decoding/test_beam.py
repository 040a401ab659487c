from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_sigma.decoding.beam import SeenItems, beam_search, search_prefixes, top_with_ties, verify
from recbole_sigma.decoding.kv import Step
from recbole_sigma.tokenization.trie import build_trie, contiguous_tokens
from recbole_sigma.values import RankedItems, UserError
from tests.arithmetic import STATES, same_list


def ranked_by_score(scores, k):
    """Oracle: (items, scores) by score descending, then item id, finite scores only."""
    value, item = scores.sort(dim=1, descending=True, stable=True)
    value, item = value[:, :k], item[:, :k]
    return torch.where(value > -torch.inf, item, 0), value


@pytest.mark.parametrize("left", [True, False])
def test_lists_and_scores_equal_generate_with_a_prefix_function(shop, model, left):
    ids, mask = shop.prompts(left=left)
    items, scores = shop.generate(model, ids, mask, 10, 20)
    got = shop.search(model, ids, mask, 10, 20)
    same_list(got, RankedItems(items, scores))


def test_seen_items_are_left_out_as_if_the_catalogue_lacked_them(shop, model):
    ids, mask = shop.prompts()
    seen = shop.seen(number=300)
    items, scores = shop.generate(model, ids, mask, 10, 20, seen)
    got = shop.search(model, ids, mask, 10, 20, seen=seen)
    same_list(got, RankedItems(items, scores))


@pytest.mark.parametrize("score", ["vocab", "level"])
def test_a_beam_as_wide_as_the_catalogue_ranks_every_item(shop, model, score):
    ids, mask = shop.prompts()
    seen = shop.seen(number=200)
    got = shop.search(model, ids, mask, 300, 300, seen=seen, score=score)
    if score == "vocab":
        scores = shop.brute_force(model, ids, mask)
        scores[seen] = -torch.inf
        items, scores = ranked_by_score(scores, 300)
        same_list(got, RankedItems(items, scores))
    for row in range(4):
        expected = set(range(1, 301)) - set(seen[1][seen[0] == row].tolist())
        assert set(got.items[row].tolist()) - {0} == expected
        assert int(got.short[row]) == 300 - len(expected)


@pytest.mark.parametrize("score", ["vocab", "level"])
def test_dense_tables_equal_csr(shop, model, score):
    ids, mask = shop.prompts()
    seen = shop.seen()
    csr = shop.search(model, ids, mask, 20, 20, seen=seen, score=score)
    dense = shop.search(model, ids, mask, 20, 20, dense=True, seen=seen, score=score)
    assert torch.equal(csr.items, dense.items)
    assert torch.equal(csr.scores, dense.scores)


def test_a_padded_batch_equals_single_users(shop, model):
    ids, mask = shop.prompts()
    seen = shop.seen()
    together = shop.search(model, ids, mask, 10, 20, seen=seen)
    for row in range(len(ids)):
        real = mask[row].bool()
        own = seen[1][seen[0] == row]
        alone = shop.search(
            model, ids[row, real][None], mask[row, real][None], 10, 20, seen=(torch.zeros_like(own), own)
        )
        same_list(alone, RankedItems(together.items[row : row + 1], together.scores[row : row + 1]))


@pytest.mark.parametrize("lengths", [(12, 12, 12, 12), (12, 6, 4, 3)])
def test_history_runs_once_and_the_last_code_is_never_fed(shop, model, lengths):
    ids, _ = shop.prompts()
    mask = (torch.arange(12) < torch.tensor(lengths)[:, None]).long()
    encoder_calls = []
    if model.config.is_encoder_decoder:
        feed_forward = model.encoder.block[0].layer[-1]
        hook = feed_forward.register_forward_hook(lambda _, args, __: encoder_calls.append(args[0].shape))
        expected = [1]
    else:
        expected = []  # the prompts were run once, before the decoder stood behind them
    decoder = shop.decoder(model, ids, mask)
    beam_search(decoder, shop.trie, shop.tokens, 10, 20)
    if model.config.is_encoder_decoder:
        hook.remove()
        assert encoder_calls == [(sum(lengths), 32)]
    assert decoder.forwarded == [*expected, 8, 20, 20]


def test_no_tensor_of_the_search_holds_a_history_per_beam(shop, model):
    """Attention over the history: [B, H, W, S] scores are allowed, keys and values per beam are not."""
    ids, mask = shop.prompts(batch=3, length=11)
    forbidden = {(3 * 20, 11), (3 * 20, 4, 11), (3, 20, 11, 8), (60, 4, 11, 8), (60, 2, 11, 8)}
    shapes = set()

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            shapes.update(
                tuple(t.shape) for t in (out if isinstance(out, tuple) else (out,)) if torch.is_tensor(t)
            )
            return out

    decoder = shop.decoder(model, ids, mask)
    with Watch():
        beam_search(decoder, shop.trie, shop.tokens, 10, 20)
    assert len(shapes) > 20
    assert not any(s[0] == 60 and 11 in s[1:] for s in shapes if s)
    assert not shapes & forbidden


@torch.inference_mode()
def test_prefix_search_stops_at_a_depth_and_can_go_on(shop, model):
    ids, mask = shop.prompts()
    decoder = shop.decoder(model, ids, mask)
    beams = search_prefixes(decoder, shop.trie, shop.tokens, 15, 2)
    assert beams.depth == 2 and beams.nodes.shape == (4, 15)
    step = decoder.advance(beams.tokens, beams.parents, keep=False)
    codes = shop.trie.codes_of(2, beams.nodes)
    tokens = torch.stack([shop.tokens[0][codes[..., 0]], shop.tokens[1][codes[..., 1]]], dim=-1)
    forced = decoder.force(tokens)
    assert torch.allclose(step.hidden, forced.hidden[:, :, -1], **STATES)
    # Nothing was kept, so a part of the beams can be run again, in any grouping (the certificate of the
    # hybrid path).
    part = decoder.advance(beams.tokens[:, 3:7], beams.parents[:, 3:7], keep=False)
    assert torch.allclose(part.hidden, step.hidden[:, 3:7], **STATES)
    assert torch.equal(beams.tokens, tokens[..., 1])
    # ... and the search resumed by hand ends in the same lists as in one go.
    step = decoder.advance(beams.tokens, beams.parents)
    again = shop.search(model, ids, mask, 15, 15)
    fresh = shop.decoder(model, ids, mask)
    three = search_prefixes(fresh, shop.trie, shop.tokens, 15, 3)
    logits = decoder.logits(step).float().log_softmax(-1)
    picked = logits[torch.arange(4)[:, None], three.parents, three.tokens]
    assert torch.allclose(picked + beams.scores.gather(1, three.parents), three.scores, atol=1e-4)
    assert again.items.shape == (4, 15)


class TableDecoder:
    """A fake model whose log-probabilities depend on the level only: [levels][V], the same for all users."""

    def __init__(self, table, batch):
        self.table, self.batch, self.level = table, batch, 0

    def first(self):
        return Step(torch.zeros(self.batch, 1, 1), self.table[0].expand(self.batch, 1, -1))

    def advance(self, tokens, parents, keep=True):
        self.level += 1
        return Step(torch.zeros(*tokens.shape, 1), self.table[self.level].expand(*tokens.shape, -1))

    def logits(self, step, tokens=None):
        return step.logits if tokens is None else step.logits[..., tokens]


@st.composite
def catalogues(draw):
    levels = draw(st.integers(1, 3))
    sizes = draw(st.lists(st.integers(1, 5), min_size=levels, max_size=levels))
    row = st.tuples(*(st.integers(0, size - 1) for size in sizes))
    rows = draw(st.lists(row, min_size=1, max_size=30, unique=True))
    batch = draw(st.integers(1, 3))
    pair = st.tuples(st.integers(0, batch - 1), st.integers(0, len(rows)))
    pairs = draw(st.lists(pair, max_size=40))
    # Few distinct values, so that equal scores are common.
    value = st.integers(0, 2)
    table = [draw(st.lists(value, min_size=sum(sizes), max_size=sum(sizes))) for _ in sizes]
    return torch.tensor([[0] * levels, *rows]), sizes, batch, pairs, torch.tensor(table, dtype=torch.float32)


@settings(max_examples=80, deadline=None)
@given(
    catalogues(), st.integers(1, 12), st.integers(0, 12), st.booleans(), st.sampled_from(["vocab", "level"])
)
def test_random_tries_ties_and_histories(case, k, extra, dense, score):
    codes, sizes, batch, pairs, table = case
    trie = build_trie(codes, sizes, dense_cells=1000 if dense else 0)
    tokens = contiguous_tokens(sizes, 0)
    rows = torch.tensor([p[0] for p in pairs], dtype=torch.int64)
    items = torch.tensor([p[1] for p in pairs], dtype=torch.int64)
    beam = k + extra
    got = beam_search(TableDecoder(table, batch), trie, tokens, k, beam, (rows, items), score)
    count = len(codes) - 1
    scores = torch.full((batch, count + 1), -torch.inf)
    total = torch.zeros(count)
    for level, own in enumerate(tokens):
        known = table[level].log_softmax(0)[own] if score == "vocab" else table[level][own].log_softmax(0)
        total = total + known[codes[1:, level]]
    scores[:, 1:] = total
    scores[rows, items] = -torch.inf
    for row in range(batch):
        unseen = (scores[row] > -torch.inf).sum()
        assert int((got.items[row] > 0).sum()) == min(k, int(unseen))
    if beam >= count:
        # Sums of the same floats in the same order: equal bit for bit, ties by item id.
        expected_items, expected = ranked_by_score(scores, k)
        padding = k - expected.shape[1]
        expected = torch.nn.functional.pad(expected, (0, max(padding, 0)), value=-torch.inf)
        assert torch.allclose(got.scores, expected, atol=1e-6)
        for row in range(batch):
            real = got.items[row] > 0
            order = sorted(
                zip((-got.scores[row][real]).tolist(), got.items[row][real].tolist(), strict=True),
                key=lambda p: p,
            )
            assert [item for _, item in order] == got.items[row][real].tolist()


def test_equal_scores_are_ordered_by_item_id_even_at_the_cut():
    codes = torch.tensor([[0], [4], [3], [2], [1], [0]])
    decoder = TableDecoder(torch.zeros(1, 5), 2)
    got = beam_search(decoder, build_trie(codes), contiguous_tokens([5], 0), 3, 3)
    assert got.items.tolist() == [[1, 2, 3], [1, 2, 3]]


def test_top_with_ties_prefers_small_keys():
    scores = torch.tensor([[0.5, 1.0, 0.5, 0.5, -torch.inf], [3.0, 2.0, 1.0, 0.0, -1.0]])
    keys = torch.tensor([[9, 1, 2, 5, 0], [0, 1, 2, 3, 4]])
    value, index = top_with_ties(scores, 3, lambda: keys)
    assert index.tolist() == [[1, 2, 3], [0, 1, 2]]
    assert value.tolist() == [[1.0, 0.5, 0.5], [3.0, 2.0, 1.0]]


def test_everything_seen_gives_an_empty_list_and_others_are_untouched(shop, models):
    ids, mask = shop.prompts()
    everything = torch.arange(1, 301)
    got = shop.search(models["t5"], ids, mask, 5, 10, seen=(torch.full_like(everything, 2), everything))
    free = shop.search(models["t5"], ids, mask, 5, 10)
    assert got.items[2].tolist() == [0] * 5
    assert bool((got.scores[2] == -torch.inf).all())
    assert int(got.short[2]) == 5
    others = torch.tensor([0, 1, 3])
    assert torch.equal(got.items[others], free.items[others])


def test_more_than_the_catalogue_is_padded_and_counted(shop_factory, make_model):
    shop = shop_factory(7, size=3)
    model = make_model("t5", shop.vocabulary)
    got = shop.search(model, *shop.prompts(), 20, 20)
    assert got.short.tolist() == [13] * 4
    assert sorted(got.items[0, :7].tolist()) == list(range(1, 8))


def test_results_can_be_written_to(shop, models):
    got = shop.search(models["t5"], *shop.prompts(), 5, 5)
    got.scores[:, 0] = 0.0
    got.items[:, 0] = 0


def test_same_input_gives_the_same_bits(shop, model):
    ids, mask = shop.prompts()
    one, two = (shop.search(model, ids, mask, 10, 20) for _ in range(2))
    assert torch.equal(one.items, two.items) and torch.equal(one.scores, two.scores)


def test_hostile_requests_are_refused(shop, models):
    ids, mask = shop.prompts()
    model = models["llama"]
    with pytest.raises(UserError, match="beam of 5 cannot return 10 items"):
        shop.search(model, ids, mask, 10, 5)
    with pytest.raises(UserError, match="at least 1"):
        shop.search(model, ids, mask, 0, 0)
    with pytest.raises(UserError, match="'vocabulary' is unknown"):
        shop.search(model, ids, mask, 5, 5, score="vocabulary")
    with pytest.raises(ValueError, match="outside the batch"):
        shop.search(model, ids, mask, 5, 5, seen=(torch.tensor([4]), torch.tensor([1])))
    with pytest.raises(ValueError, match="negative"):
        shop.search(model, ids, mask, 5, 5, seen=(torch.tensor([0]), torch.tensor([-1])))
    with pytest.raises(ValueError, match="two equal vectors"):
        shop.search(model, ids, mask, 5, 5, seen=(torch.tensor([0, 1]), torch.tensor([1])))
    with pytest.raises(UserError, match="level 2 of the trie uses 8 codes.*has 5 tokens"):
        tokens = [shop.tokens[0], shop.tokens[1][:5], *shop.tokens[2:]]
        beam_search(shop.decoder(model, ids, mask), shop.trie, tokens, 5, 5)
    with pytest.raises(ValueError, match="depth 5"):
        search_prefixes(shop.decoder(model, ids, mask), shop.trie, shop.tokens, 5, 5)


def test_nan_from_the_model_is_refused():
    table = torch.zeros(1, 5)
    table[0, 2] = torch.nan
    trie = build_trie(torch.tensor([[0], [4], [3], [2], [1], [0]]))
    with pytest.raises(UserError, match="NaN"):
        beam_search(TableDecoder(table, 1), trie, contiguous_tokens([5], 0), 3, 3)


def test_verify_catches_what_must_never_happen(shop):
    seen = SeenItems(shop.trie, torch.tensor([0]), torch.tensor([4]), 1)
    verify(torch.tensor([[1, 2, 0, 0]]), shop.trie, seen)
    for bad, message in (([[1, 1]], "twice"), ([[301, 1]], "does not exist"), ([[4, 1]], "seen")):
        with pytest.raises(AssertionError, match=message):
            verify(torch.tensor(bad), shop.trie, seen)


def test_items_outside_the_catalogue_may_be_listed_as_seen(shop):
    seen = SeenItems(shop.trie, torch.tensor([0, 0, 1]), torch.tensor([0, 9999, 3]), 2)
    assert seen.rows.tolist() == [1]
    rows, nodes = seen.exhausted(shop.trie.depth)
    assert shop.trie.item_of_leaf[nodes].tolist() == [3] and rows.tolist() == [1]
