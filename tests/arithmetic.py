"""How far two orders of the same float32 arithmetic may lie apart.

Processors sum in different orders (SSE, AVX2, AVX-512, AMX tiles, batches of other sizes), so a test that
compares two ways to one number needs room for rounding, and no more. A sum of n terms of size s moves by at
most c sqrt(n) u s, u = 2^-24, but for a chance of 2 exp(-c^2 / 2): Higham and Mary (2019), theorem 2.4; c = 6
makes it 3e-8. A network is a chain of such sums whose terms its normalisation keeps at one size, and rounding
errors of independent sums add like standard deviations, so that ``depth`` sums move the end by sqrt(depth)
times one of them.
"""

from __future__ import annotations

import math
from typing import Any

import torch

UNIT = 2.0**-24


def room(size: float, terms: int, depth: int = 1) -> dict[str, float]:
    """``atol`` and ``rtol`` for numbers up to ``size``, made by ``depth`` sums of ``terms`` terms each."""
    return {"atol": 6 * math.sqrt(terms * depth) * UNIT * size, "rtol": 0.0}


# The models of the tests are at most 128 wide and two blocks deep; a block is six products and two norms.
STATES = room(size=4, terms=128, depth=16)  # states of a network, its losses and gradients: 6.5e-5
SCORES = room(size=16, terms=128, depth=16)  # log-probabilities, whose logits lie within 16 of 0: 2.6e-4
SHARES = room(size=1, terms=128, depth=16)  # probabilities and their sums: 1.6e-5


def same_list(one: Any, other: Any, tolerance: dict[str, float] = SCORES) -> None:
    """Two `RankedItems` hold the same scores, and the same items wherever rounding cannot change the order.

    Args:
        one: lists with ``items`` int64 [B, K] and ``scores`` float [B, K], best first.
        other: what they are compared with.
        tolerance: from `room`.
    """
    torch.testing.assert_close(one.scores, other.scores, **tolerance)
    finite = torch.isfinite(other.scores)
    near = (other.scores[:, :-1] - other.scores[:, 1:]).abs() <= 2 * tolerance["atol"]
    clear = finite.clone()
    clear[:, 1:] &= ~near
    clear[:, :-1] &= ~near
    clear[:, -1] = False  # what stands behind it is not known
    assert clear.any(), "every score ties with a neighbour: the lists say nothing"
    assert torch.equal(one.items[clear], other.items[clear])
    assert torch.equal(one.items[~finite], other.items[~finite])
