"""A classifier that is not learned: K vectors as far from each other as K vectors can be.

A simplex equiangular tight frame is where the last layer of a well-trained classifier ends (neural collapse,
Papyan et al. 2020), so it may stand there from the start (Yang et al. 2022, arXiv 2203.09081). One of the two
components that are called after IBA here (arXiv 2604.00517); its own formulas are not readable.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recbole_sigma.values import UserError


def etf_frame(count: int, width: int, seed: int) -> Tensor:
    """K unit vectors whose inner products are all -1 / (K - 1).

    M = sqrt(K / (K - 1)) U (I - 1 1' / K), U orthonormal from the QR decomposition of a seeded normal matrix.

    Args:
        count: K, at least 2.
        width: d, at least K.
        seed: of U.

    Returns:
        float [K, d].

    Raises:
        UserError: K < 2 or K > d.
    """
    if count < 2 or count > width:
        raise UserError(
            f"prefix_head: etf has room for 2 to {width} first-level codes in {width} dimensions, and there "
            f"are {count}: set tokenizer_codebook_size to at most {width}, or take a wider backbone"
        )
    normal = torch.randn(width, count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    centred = torch.eye(count, dtype=torch.float64) - 1.0 / count
    frame = (count / (count - 1)) ** 0.5 * torch.linalg.qr(normal).Q @ centred
    return frame.T.float().contiguous()
