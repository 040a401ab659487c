"""A search for all prefixes stays within memory where a catalogue has very many of them."""

import logging

import numpy as np
import pytest
import torch

from recbole_sigma.models.sigma import paper
from recbole_sigma.models.sigma.paper import rows_of_width, search_widths, warn_of_width
from recbole_sigma.tokenization.catalogue import build_catalogue
from tests.arithmetic import STATES, same_list
from tests.planted import build, one_batch

PAPER = {"sigma_objective": "paper", "decode_mode": "fixed_temp"}


def space(sizes, length):
    grid = np.stack(np.meshgrid(*[np.arange(size) for size in sizes], indexing="ij"), axis=-1)
    codes = torch.from_numpy(grid.reshape(-1, len(sizes)))
    return build_catalogue(torch.cat([codes[:1], codes]), tuple(sizes), length)


@pytest.mark.parametrize(
    "length, asked, expected",
    [
        (1, 0, (8, 8)),
        (1, 3, (3, 3)),
        (2, 0, (8, 64)),
        (3, 0, (40, 256)),
        (3, 500, (256, 256)),
        (3, 50, (50, 50)),
    ],
)
def test_widths(monkeypatch, length, asked, expected):
    monkeypatch.setattr(paper, "WIDEST", 40)
    assert search_widths(space((8, 8, 4), length).trie, length, asked) == expected


def test_rows_shrink_with_the_square_of_the_width():
    assert rows_of_width(1024, 0) * 1024**2 == 1 << 26
    assert rows_of_width(10**6, 100) == 1


def test_warning_names_the_level_and_the_way_out(monkeypatch, caplog):
    monkeypatch.setattr(paper, "WIDEST", 40)
    with caplog.at_level(logging.WARNING):
        warn_of_width(space((8, 8, 4), 2))
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        warn_of_width(space((8, 8, 4), 3))
    assert "64 prefixes" in caplog.text and "40" in caplog.text and "Name a width" in caplog.text


@pytest.mark.parametrize("length", [2, "all"])
def test_lists_do_not_depend_on_the_rows_per_pass(cycle_settings, monkeypatch, length):
    _, data, model = build("SIGMA", "cycle", cycle_settings, **PAPER, tokenizer_prefix_length=length)
    model.eval()
    batch = one_batch(data.test)
    seen = (torch.tensor([0, 0, 3]), torch.tensor([1, 2, 5]))
    whole, dense = model.rank(batch, 5, seen), model.score_all(batch, seen)
    monkeypatch.setattr(paper, "_CELLS", 1)
    assert rows_of_width(2, 2) == 1
    parts = model.rank(batch, 5, seen)
    same_list(parts, whole)
    torch.testing.assert_close(model.score_all(batch, seen), dense, **STATES)


def test_a_narrowed_level_keeps_no_more_prefixes(cycle_settings, monkeypatch):
    _, data, model = build("SIGMA", "cycle", cycle_settings, **PAPER, tokenizer_prefix_length="all")
    model.eval()
    batch = one_batch(data.test)
    everything = model.score_all(batch) > -torch.inf
    assert everything[:, 1:].all()
    monkeypatch.setattr(paper, "WIDEST", 3)
    listed = model.score_all(batch) > -torch.inf
    assert listed.any(dim=1).all() and not listed[:, 1:].all()
    inner = model.objective.catalogue.nodes[-2]
    for row in listed:
        assert len(inner[row].unique()) <= 3
