from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_sigma.tokenization.rq_vae import RQVAE, RQVAEOptions, rq_vae
from recbole_sigma.values import UserError
from tests.planted import clusters

SMALL = RQVAEOptions(latent=8, hidden=(32,), epochs=30, batch=64, seed=3)


def test_first_level_finds_planted_groups():
    vectors, group = clusters(each=40, width=16, noise=0.3)
    codes, report = rq_vae(vectors, (4, 8), SMALL)
    assert codes.shape == (160, 2) and codes.dtype == np.int64
    assert len({(g, c) for g, c in zip(group, codes[:, 0], strict=True)}) == 4
    assert len(set(codes[:, 0])) == 4
    assert report["loss"][-1] < 0.75 * report["loss"][0]


def test_same_seed_same_codes_and_the_global_generator_is_left_alone():
    vectors, _ = clusters(each=40, width=16, noise=0.3)
    torch.manual_seed(11)
    expected = torch.rand(1)
    torch.manual_seed(11)
    first, _ = rq_vae(vectors, (4, 8), SMALL)
    assert torch.equal(torch.rand(1), expected)
    second, _ = rq_vae(vectors, (4, 8), SMALL)
    assert np.array_equal(first, second)


def test_restarts_revive_a_collapsed_codebook():
    vectors, _ = clusters(each=40, width=16, noise=0.3)
    data = torch.from_numpy(vectors).float()
    torch.manual_seed(0)
    model = RQVAE(16, (8, 8), SMALL)
    with torch.no_grad():
        for codebook in model.codebooks:
            codebook[1:] = 1e3
    assert len(torch.unique(model.codes_of(data)[:, 0])) == 1
    moved = model.restart_dead_codes(data, torch.Generator().manual_seed(0))
    assert moved >= 7
    assert len(torch.unique(model.codes_of(data)[:, 0])) > 1


def test_quantization_adds_up_and_gradients_reach_encoder_and_codebooks():
    torch.manual_seed(0)
    model = RQVAE(16, (4, 4), SMALL)
    data = torch.randn(20, 16)
    codes, total, _ = model.quantize(model.encoder(data))
    chosen = sum(book[codes[:, level]] for level, book in enumerate(model.codebooks))
    assert torch.allclose(total, chosen)
    loss, again = model(data)
    loss.backward()
    assert torch.equal(again, codes)
    assert model.encoder[0].weight.grad.abs().sum() > 0
    assert all(book.grad.abs().sum() > 0 for book in model.codebooks)


def test_bad_vectors_are_refused():
    vectors, _ = clusters(each=40, width=16, noise=0.3)
    with pytest.raises(UserError, match="codebook of 500"):
        rq_vae(vectors, (4, 500), SMALL)
    vectors[5, 2] = np.nan
    with pytest.raises(UserError, match="item row 6"):
        rq_vae(vectors, (4, 8), SMALL)


def test_constant_columns_do_no_harm():
    vectors, _ = clusters(each=40, width=16, noise=0.3)
    vectors[:, 0] = 7.0
    codes, _ = rq_vae(vectors, (4, 8), SMALL)
    assert len(np.unique(codes[:, 0])) == 4
