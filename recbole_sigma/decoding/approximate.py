"""Optional approximate search inside very large prefixes: faiss inverted lists, and an estimated normaliser.

A prefix of n items costs one product with n rows, which a CPU core does at about its peak rate; that is
exact and the default. Above a threshold the items of a prefix can instead be cut into cells, of which a query
looks into the nearest few. Two things are then approximate; ``benchmarks/inside_prefix.py`` measures both:

* the list: an item in a cell that was not looked into is missed (recall);
* P(item | prefix): its normaliser sums over all items of the prefix, and computing it exactly *is* the
  product that was to be saved. It is estimated: exact terms for the rows that the search returned, and for
  the rest of every cell c, with mean m and diagonal variance v, the second-order moment expansion
  ``n_c exp(q m + q^2 v / 2)``. It never falls below the sum of the exact terms, so P(item | prefix) <= 1 and
  the certificate of :mod:`.local` holds for the approximate distribution.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recbole_sigma.values import UserError

_POINTS_PER_CELL = 64
"""Training points of the clustering, per cell."""


@dataclass(frozen=True)
class Cells:
    """The items of one prefix cut into cells.

    Attributes:
        index: faiss inverted lists over the rows of the prefix (row 0 is the prefix's first).
        cell: int64 [n], cell of every row.
        log_size: float [C], log of the number of rows; ``-inf`` for an empty cell.
        mean: float [C, d].
        half_variance: float [C, d], half the variance per dimension.
    """

    index: object
    cell: Tensor
    log_size: Tensor
    mean: Tensor
    half_variance: Tensor


@dataclass(frozen=True)
class PrefixIndexes:
    """Cells of every prefix with more than ``threshold`` items; of no prefix, if none is so large.

    Attributes:
        threshold: prefixes of at most this many items are searched exactly.
        probes: cells that a query looks into.
        fetch: rows that it returns, at least the list length; their share of the normaliser is exact.
        cells: prefix -> its cells.
    """

    threshold: int
    probes: int
    fetch: int
    cells: dict[int, Cells]


def index_prefixes(
    vectors: Tensor, start: Tensor, threshold: int, probes: int = 16, fetch: int = 100, seed: int = 0
) -> PrefixIndexes:
    """Cut the items of large prefixes into cells. Vectors that change (training) need a new index.

    Args:
        vectors: float [n, d], ``SortedItems.vectors``.
        start: int64 [C + 1], ``SortedItems.start``.
        threshold: prefixes of more items get cells.
        probes: cells that a query looks into.
        fetch: rows that a query returns.
        seed: seed of the clustering.

    Raises:
        UserError: a threshold, probes or fetch below 1.
    """
    for name, value in (("threshold", threshold), ("probes", probes), ("fetch", fetch)):
        if value < 1:
            raise UserError(f"the {name} of an approximate search must be at least 1, not {value}")
    sizes = start[1:] - start[:-1]
    cells = {}
    for prefix in (sizes > threshold).nonzero().flatten().tolist():
        low, high = start[prefix : prefix + 2].tolist()
        cells[prefix] = _cut(vectors[low:high].detach().float().cpu().contiguous(), seed)
    return PrefixIndexes(threshold, probes, fetch, cells)


def _cut(rows: Tensor, seed: int) -> Cells:
    import faiss

    number, width = rows.shape
    count = max(1, min(round(2 * number**0.5), number // 4))
    coarse = faiss.IndexFlatL2(width)
    index = faiss.IndexIVFFlat(coarse, width, count, faiss.METRIC_INNER_PRODUCT)
    index.cp.spherical, index.cp.seed, index.cp.niter = False, seed, 10
    index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, _POINTS_PER_CELL
    index.train(rows.numpy())
    index.add(rows.numpy())
    cell = torch.from_numpy(coarse.search(rows.numpy(), 1)[1][:, 0])
    size = torch.bincount(cell, minlength=count).float()
    mean = torch.zeros(count, width).index_add_(0, cell, rows) / size.clamp_min(1)[:, None]
    off = (rows - mean[cell]) ** 2
    variance = torch.zeros(count, width).index_add_(0, cell, off) / size.clamp_min(1)[:, None]
    return Cells(index, cell, size.log(), mean, variance / 2)


def search_cells(
    query: Tensor,
    cells: Cells,
    probes: int,
    fetch: int,
    seen: tuple[Tensor, Tensor],
    keep_mass: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The rows of a prefix that score highest, as far as the probed cells hold them.

    Args:
        query: float [P, d], scaled item queries.
        cells: the prefix.
        probes: cells that a query looks into.
        fetch: rows to return.
        seen: (query int64 [nnz], row int64 [nnz]) that must not be listed, no pair twice.
        keep_mass: seen items keep their share of the normaliser.

    Returns:
        logits float [P, fetch] (``-inf`` in empty slots and for seen rows), rows int64 [P, fetch], and the
        log of the estimated normaliser, float [P].
    """
    device, query = query.device, query.detach().float().cpu().contiguous()
    seen = (seen[0].cpu(), seen[1].cpu())
    level = query @ cells.mean.T
    probes = min(probes, level.shape[1])
    nearest = level.masked_fill(cells.log_size == -torch.inf, -torch.inf).topk(probes, dim=1)
    cells.index.nprobe = probes  # type: ignore[attr-defined]
    found, rows = cells.index.search_preassigned(  # type: ignore[attr-defined]
        query.numpy(), fetch, nearest.indices.numpy(), nearest.values.numpy()
    )
    logits, rows = torch.from_numpy(found), torch.from_numpy(rows)
    empty = rows < 0
    rows = rows.clamp_min(0)
    logits = logits.masked_fill(empty, -torch.inf)

    banned = torch.zeros_like(empty)
    if len(seen[0]):
        n = len(cells.cell)
        banned = torch.isin(torch.arange(len(query))[:, None] * n + rows, seen[0] * n + seen[1]) & ~empty
    exact = logits if keep_mass else logits.masked_fill(banned, -torch.inf)
    left = cells.log_size.exp().repeat(len(query), 1)
    left.scatter_add_(1, cells.cell[rows], -(~empty).float())
    if not keep_mass and len(seen[0]):
        returned = torch.isin(seen[0] * n + seen[1], (torch.arange(len(query))[:, None] * n + rows)[~empty])
        rest = ~returned
        left.index_put_((seen[0][rest], cells.cell[seen[1][rest]]), torch.tensor(-1.0), accumulate=True)
    rest_of_cells = left.clamp_min_(0).log_() + level + query**2 @ cells.half_variance.T
    total = torch.cat([exact, rest_of_cells], dim=1).logsumexp(dim=1)
    return logits.masked_fill(banned, -torch.inf).to(device), rows.to(device), total.to(device)
