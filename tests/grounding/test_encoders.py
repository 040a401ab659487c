"""Item encoders: they start from the raw vectors, learn, and large batches in chunks change nothing."""

import numpy as np
import pytest
import torch

from recbole_sigma.grounding.alignment import (
    AlignmentOptions,
    BatchLoss,
    align,
    cached_backward,
    seeded,
    view_shares,
)
from recbole_sigma.grounding.causal import CausalTower, causal_text_vectors
from recbole_sigma.grounding.tfidf import TermTower, tfidf_svd, tfidf_terms
from recbole_sigma.grounding.tower import FrozenTower
from recbole_sigma.grounding.views import shared_value_view
from recbole_sigma.language.lora import LoraOptions
from recbole_sigma.values import UserError
from tests.arithmetic import STATES
from tests.language_models import save_model

WORDS = ["apple", "stone", "river", "cloud", "horse", "metal", "paper", "light"]


def catalogue(n=48, groups=6, seed=0):
    """Item texts with one word of a hidden group, which users know, among loud words of a series."""
    rng = np.random.default_rng(seed)
    group = np.r_[-1, np.arange(n) % groups]
    series = rng.integers(0, 8, n)
    texts = [""] + [
        f"series{s} brand{s} line{s} pack{rng.integers(4)} {WORDS[g]}"
        for s, g in zip(series, group[1:], strict=True)
    ]
    view = shared_value_view("collaborative", [""] + [f"g{g}" for g in group[1:]], 4, seed=0)
    teacher = np.concatenate([np.zeros((1, groups)), np.eye(groups)[group[1:]]]).astype(np.float32)
    return texts, group, view, teacher


def hits(vectors, group):
    near = vectors[1:] @ vectors[1:].T
    np.fill_diagonal(near, -9)
    return (group[1:][near.argmax(1)] == group[1:]).mean()


def test_terms_and_their_vectors_are_the_svd():
    texts, *_ = catalogue()
    text = tfidf_terms([*texts, ""], 16, seed=0)
    np.testing.assert_allclose(text.vectors(), tfidf_svd([*texts, ""], 16, seed=0))
    assert not text.vectors()[0].any() and not text.vectors()[-1].any()
    tower = TermTower(text, 8, 4, 0.0)
    inside = torch.nn.functional.normalize(
        tower.words(
            torch.from_numpy(text.terms.indices.astype(np.int64)),
            torch.from_numpy(text.terms.indptr[:-1].astype(np.int64)),
            per_sample_weights=torch.from_numpy(text.terms.data),
        ),
        dim=-1,
    )
    np.testing.assert_allclose(inside.detach()[1:-1], text.vectors()[1:-1], atol=1e-6)
    out = tower.vectors()
    assert out.shape == (len(texts) + 1, 4) and not out[0].any() and not out[-1].any()
    np.testing.assert_allclose(np.linalg.norm(out[1:-1], axis=1), 1, atol=1e-5)


def test_training_the_words_beats_the_projection_alone():
    texts, group, view, teacher = catalogue(n=96)
    options = AlignmentOptions(dim=16, hidden=16, steps=120, batch_pairs=32, dropout=0.0)
    text = tfidf_terms(texts, 12, seed=0)
    found = {}
    for name, make in {
        "words": lambda: TermTower(text, 16, 16, 0.0),
        "projection": lambda: FrozenTower(text.vectors(), 16, 16, 0.0),
    }.items():
        with seeded(0):
            tower = make()
            log = align(tower, teacher, [view], options)
        assert log[-1]["loss_cl"] < log[0]["loss_cl"]
        found[name] = hits(tower.vectors(), group)
    assert found["words"] > found["projection"] + 0.3 and found["words"] > 0.9


@pytest.mark.parametrize("kind", ["terms", "frozen", "causal"])
@pytest.mark.parametrize("chunk", [1, 3, 8])
def test_chunks_give_the_gradients_of_one_pass(kind, chunk, saved):
    texts, _, _, teacher = catalogue(n=12)
    items = torch.tensor([1, 2, 3, 4, 5, 7, 8, 9])
    options = AlignmentOptions(kd_weight=0.5)
    partner = torch.arange(8).roll(4)
    found, folder = [], saved("qwen3")
    for size in (0, chunk):
        with seeded(3):
            if kind == "terms":
                tower = TermTower(tfidf_terms(texts, 6, 0), 8, 4, 0.0)
            elif kind == "frozen":
                tower = FrozenTower(tfidf_svd(texts, 6, 0), 8, 4, 0.0)
            else:
                tower = CausalTower(texts, folder, 4, LoraOptions(rank=2, dropout=0.0), 16)
            if kind == "terms":  # dropout cuts the batch's random stream differently: only chunked = chunked
                tower.train(False)
            loss = cached_backward(
                tower,
                items,
                BatchLoss(items, partner, torch.from_numpy(teacher[items]), options),
                size,
            )
        gradients = {
            n: (p.grad.to_dense() if p.grad.is_sparse else p.grad).clone()
            for n, p in tower.named_parameters()
            if p.grad is not None
        }
        found.append((loss, gradients))
    torch.testing.assert_close(found[0][0], found[1][0])
    assert found[0][1] and found[0][1].keys() == found[1][1].keys()
    for name, value in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], value, **STATES)


def test_dropout_draws_the_same_masks_in_both_passes():
    """With one chunk the cached pass is the plain pass, mask by mask, and leaves the generator where it
    was.
    """
    texts, _, _, teacher = catalogue(n=12)
    items, partner = torch.arange(1, 9), torch.arange(8).roll(4)
    batch = BatchLoss(items, partner, torch.from_numpy(teacher[items]), AlignmentOptions())
    seen = []

    class Spy(TermTower):
        def forward(self, items):
            out = super().forward(items)
            seen.append(out.detach().clone())
            return out

    with seeded(1):
        cached_backward(Spy(tfidf_terms(texts, 6, 0), 8, 4, 0.5), items, batch, 4)
    first, second = torch.cat(seen[:2]), torch.cat(seen[2:])
    assert torch.equal(first, second)


def test_behaviour_is_half_of_a_batch():
    _, _, view, _ = catalogue()
    other = shared_value_view("brand", ["", "x", "x", *[""] * 46], 2, seed=0)
    third = shared_value_view("taxonomy", ["", "y", "y", *[""] * 46], 2, seed=0)
    assert view_shares([view, other, third]) == [0.5, 0.25, 0.25]
    assert view_shares([view]) == [1.0] and view_shares([other, third]) == [0.5, 0.5]


def test_last_token_state_is_what_the_model_says_whatever_the_batch(saved):
    from recbole_sigma.language.loading import load_causal_model, load_tokenizer

    folder = saved("qwen3")
    texts = ["", "red thing", "blue thing number 2 of many", "", "green"]
    vectors = causal_text_vectors(texts, folder)
    assert vectors.shape == (5, 32) and not vectors[0].any() and not vectors[3].any()
    model, tokenizer = load_causal_model(folder, "x").eval(), load_tokenizer(folder, "x")
    for item in (1, 2, 4):
        ids = torch.tensor([[*tokenizer.encode(texts[item]).ids, model.config.eos_token_id]])
        with torch.no_grad():
            state = model.base_model(input_ids=ids).last_hidden_state[0, -1]
            left = torch.cat([torch.zeros(1, 3, dtype=torch.int64), ids], dim=1)  # padded on the other side
            mask = torch.cat([torch.zeros(1, 3, dtype=torch.int64), torch.ones_like(ids)], dim=1)
            position = (mask.cumsum(1) - 1).clamp(min=0)
            other = model.base_model(input_ids=left, attention_mask=mask, position_ids=position)
        expected = torch.nn.functional.normalize(state, dim=0).numpy()
        np.testing.assert_allclose(vectors[item], expected, atol=1e-5)
        found = torch.nn.functional.normalize(other.last_hidden_state[0, -1], dim=0).numpy()
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("rank", [4, 0])
def test_a_language_model_learns_what_users_do(saved, rank):
    texts, group, view, teacher = catalogue(n=24, groups=3)
    texts = [" ".join(text.split()[-1:] + text.split()[:1]) for text in texts]  # short texts, a short test
    options = AlignmentOptions(
        dim=16, steps=60, batch_pairs=16, chunk=16, encoder_rate=5e-3, learning_rate=1e-2
    )
    same = group[1:, None] == group[None, 1:]

    def gap(vectors):
        near = vectors[1:] @ vectors[1:].T
        return near[same].mean() - near[~same].mean()

    with seeded(0):
        tower = CausalTower(texts, saved("llama"), 16, LoraOptions(rank=rank, dropout=0.0), 16)
        trained = [name for name, p in tower.model.named_parameters() if p.requires_grad]
        before = gap(tower.vectors())
        align(tower, teacher, [view], options)
    assert all("lora" in name for name in trained) == bool(rank)
    assert gap(tower.vectors()) > before + 0.3


def test_encoders_refuse_what_cannot_work(saved, tmp_path):
    texts, *_ = catalogue(n=6)
    for shape, match in (("bert", "not a causal language model"), ("t5", "encoder-decoder")):
        with pytest.raises(UserError, match=match):
            causal_text_vectors(texts, saved(shape))
    plain = save_model(tmp_path / "plain", "gpt2", special=(), bos_token_id=None, eos_token_id=None)
    assert np.isfinite(causal_text_vectors(texts, plain)).all()  # no end token: the last word is pooled
    with pytest.raises(UserError, match="text_fields"):
        causal_text_vectors(["", " "], saved("gpt2"))
