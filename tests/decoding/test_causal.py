"""Prefix search behind a prompt that the model ran itself: equal to plain forward passes, in chunks, without
growth."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from recbole_sigma.decoding.beam import SeenItems, search_prefixes, states_of
from recbole_sigma.decoding.causal import CausalDecoder
from recbole_sigma.decoding.exact import exact_prefixes
from recbole_sigma.decoding.kv import Step
from recbole_sigma.language.backbone import empty_cache, hidden_states
from recbole_sigma.language.transformer import Transformer, TransformerShape
from tests.arithmetic import SCORES, STATES
from tests.language_models import random_model

FAMILIES = ("gpt2", "llama")


def prompted(model, ids, mask, cache=None, root_logits=None):
    """Right-padded prompts run by the test itself, with its own mask and positions."""
    embed = model.get_input_embeddings()
    batch, length = ids.shape
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    allowed = causal & mask.bool()[:, None, :] | torch.eye(length, dtype=torch.bool)
    cache = empty_cache(model) if cache is None else cache
    with torch.no_grad():
        places = torch.arange(length).expand(batch, -1)
        states = hidden_states(model, embed(ids), places, allowed, cache)
    count = mask.sum(dim=1)

    def head(step, tokens):
        if step.logits is not None:
            return step.logits
        logits = model.get_output_embeddings()(step.hidden)
        return logits if tokens is None else logits[..., tokens]

    start = states[torch.arange(batch), count - 1][:, None]
    start = Step(start, None if root_logits is None else root_logits[:, None])
    return CausalDecoder(partial(hidden_states, model), embed, head, cache, mask.bool(), count, start)


@torch.no_grad()
def truth(shop, model, ids, mask, depth, row):
    """Distinct prefixes of a depth with their log-probability (softmax per level) and last hidden state."""
    prompt = ids[row][mask[row].bool()]
    paths = torch.unique(shop.paths[:, :depth], dim=0)
    out = model(torch.cat([prompt.expand(len(paths), -1), paths], dim=1), output_hidden_states=True)
    steps = out.logits[:, len(prompt) - 1 : -1]
    total = torch.zeros(len(paths))
    for level in range(depth):
        table = steps[:, level, shop.tokens[level]].log_softmax(-1)
        total += table.gather(1, (paths[:, level] - shop.tokens[level][0])[:, None])[:, 0]
    return paths, total, out.hidden_states[-1][:, -1]


def node_of(shop, path):
    return shop.trie.find([int(t) - int(shop.tokens[level][0]) for level, t in enumerate(path)])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_exhaustive_prefix_search_equals_brute_force(shop, models, family, depth):
    model, (ids, mask) = models[family], shop.prompts(batch=3)
    decoder = prompted(model, ids, mask)
    beams = search_prefixes(decoder, shop.trie, shop.tokens, 600, depth, score="level")
    states = states_of(decoder, beams)
    again = prompted(model, ids, mask)
    nodes, scores = exact_prefixes(
        again, shop.trie, shop.tokens, depth, torch.full((3,), -torch.inf), score="level"
    )
    for row in range(3):
        paths, total, hidden = truth(shop, model, ids, mask, depth, row)
        place = {int(node): at for at, node in enumerate(beams.nodes[row].tolist())}
        assert len(place) == len(paths) == shop.trie.n_nodes(depth)
        at = torch.tensor([place[node_of(shop, path)] for path in paths.tolist()])
        assert torch.allclose(beams.scores[row, at], total, **SCORES)
        assert torch.allclose(states[row, at], hidden, **SCORES)
        assert sorted(nodes[row].tolist()) == sorted(place)
        assert torch.allclose(scores[row].sort().values, total.sort().values, **SCORES)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("depth", [1, 2])
def test_chunks_give_the_same_states_and_the_cache_does_not_grow(shop, models, family, depth):
    ids, mask = shop.prompts(batch=3)
    decoder = prompted(models[family], ids, mask)
    beams = search_prefixes(decoder, shop.trie, shop.tokens, 20, depth, score="level")
    cached = decoder.cached
    assert cached == ids.shape[1] + (20 if depth == 2 else 0) - (12 if depth == 2 else 0)  # 8 first codes
    whole = states_of(decoder, beams)
    width = beams.nodes.shape[1]
    parts = []
    for columns in torch.arange(width).split(3):
        parts.append(states_of(decoder, beams, columns))
        assert decoder.cached == cached
    assert torch.allclose(torch.cat(parts, dim=1), whole, **STATES)
    # the prompt went in once, each step fed only its beams, and nothing was fed per beam and prompt
    assert decoder.forwarded == ([8] if depth == 2 else []) + [width] + [
        len(c) for c in torch.arange(width).split(3)
    ]


def test_any_first_codes_can_be_asked_for_at_the_root(shop, models):
    ids, mask = shop.prompts(batch=2)
    decoder = prompted(models["gpt2"], ids, mask)
    for codes in shop.tokens[0].split(3):
        tokens = codes.expand(2, -1)
        got = decoder.advance(tokens, torch.zeros_like(tokens), keep=False).hidden
        assert decoder.cached == ids.shape[1]
        for row in range(2):
            for place, token in enumerate(codes):
                alone = torch.cat([ids[row][mask[row].bool()], token[None]])[None]
                with torch.no_grad():
                    want = models["gpt2"].base_model(alone).last_hidden_state[0, -1]
                assert torch.allclose(got[row, place], want, **SCORES)


def test_a_copied_cache_is_left_alone(shop, models):
    """For transformers' models and for ours a search behind a copy leaves the original as it is."""
    ids, mask = shop.prompts(batch=2)
    ours = Transformer(TransformerShape(shop.vocabulary, 60, 16, 2, 2, 0.0)).eval()
    for model in (*(models[name] for name in FAMILIES), ours):
        original = empty_cache(model)
        taken = prompted(model, ids, mask, original)
        kept = [layer.keys.clone() for layer in original.layers]
        copied = original.continuing(4)
        behind = CausalDecoder(
            taken.forward, taken.embed, taken.head, copied, taken.readable, taken.position, taken.start
        )
        found = [search_prefixes(d, shop.trie, shop.tokens, 10, 3, score="level") for d in (behind, taken)]
        assert torch.equal(found[0].nodes, found[1].nodes)
        assert original.length > ids.shape[1]  # the search behind the original has grown it
        original.rewind(ids.shape[1])
        for layer, keys in zip(original.layers, kept, strict=True):
            assert torch.equal(layer.keys[:, :, : ids.shape[1]], keys)


def test_seen_prefixes_are_left_out(shop, models):
    ids, mask = shop.prompts(batch=2)
    under = {}
    for depth in (1, 2, 3):
        gone = 2
        first, count = (int(x) for x in shop.trie.leaves(depth, torch.tensor(gone)))
        items = shop.trie.item_of_leaf[first : first + count].long()
        seen = SeenItems(shop.trie, torch.zeros_like(items), items, 2)
        decoder = prompted(models["llama"], ids, mask)
        beams = search_prefixes(decoder, shop.trie, shop.tokens, 600, depth, seen, score="level")
        under[depth] = [set(row.tolist()) - {-1} for row in beams.nodes]
        everyone = set(range(shop.trie.n_nodes(depth)))
        assert under[depth] == [everyone - {gone}, everyone]


def test_root_logits_replace_the_head_at_the_first_level(shop, models):
    ids, mask = shop.prompts(batch=2)
    raw = torch.randn(2, len(shop.tokens[0]), generator=shop.generator)
    decoder = prompted(models["gpt2"], ids, mask, root_logits=raw)
    beams = search_prefixes(decoder, shop.trie, shop.tokens, 8, 1, score="level")
    codes = shop.trie.tokens[0][beams.nodes].long()
    assert torch.allclose(beams.scores, raw.log_softmax(1).gather(1, codes))


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_softmax_may_run_over_the_codes_that_can_follow(shop, models, depth):
    model, (ids, mask) = models["gpt2"], shop.prompts(batch=2)
    beams = search_prefixes(prompted(model, ids, mask), shop.trie, shop.tokens, 600, depth, score="children")
    for row in range(2):
        want = {0: 0.0}
        prompt = ids[row][mask[row].bool()]
        for level in range(depth):
            grown = {}
            for node, score in want.items():
                path = [int(shop.tokens[at][code]) for at, code in enumerate(_codes(shop, level, node))]
                with torch.no_grad():
                    logits = model(torch.cat([prompt, torch.tensor(path, dtype=torch.int64)])[None]).logits[
                        0, -1
                    ]
                low, high = shop.trie.pointers[level][node : node + 2].tolist()
                tokens = shop.tokens[level][shop.trie.tokens[level][low:high].long()]
                steps = logits[tokens].log_softmax(0)
                grown.update(zip(range(low, high), (score + steps).tolist()))
            want = grown
        want = {node: score for node, score in want.items() if score > -torch.inf}
        got = {n: s for n, s in zip(beams.nodes[row].tolist(), beams.scores[row].tolist()) if n >= 0}
        assert got == pytest.approx(want, abs=3e-4)


def _codes(shop, depth, node):
    return shop.trie.codes_of(depth, torch.tensor([node]))[0].tolist()


def test_a_model_with_a_sliding_window_reads_what_the_mask_allows(shop):
    """Its own cache would forget what lies before the window; ours keeps every position."""
    model = random_model("mistral", shop.vocabulary, sliding_window=3).eval()
    rows = model.get_input_embeddings()(torch.arange(1, 10)[None]).detach()
    causal, places = torch.ones(1, 9, 9, dtype=torch.bool).tril(), torch.arange(9)[None]
    cache = empty_cache(model)
    with torch.no_grad():
        expected = hidden_states(model, rows, places, causal)
        parts = [
            hidden_states(model, rows[:, a:b], places[:, a:b], causal[:, a:b, :b], cache)
            for a, b in ((0, 5), (5, 9))
        ]
    torch.testing.assert_close(torch.cat(parts, dim=1), expected, **STATES)
