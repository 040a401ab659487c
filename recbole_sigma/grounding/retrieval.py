"""Does alignment earn its place? Recall of held-out collaborative partners, from TRAIN interactions only.

Some users and some items are taken out of what the grounding may see. Held-out users say which items go
together (partners of warm items); the held-out items play items without any interaction (cold items), and
all train users say what goes with them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from recbole_sigma.grounding.cooccurrence import windowed_cooccurrence


@dataclass(frozen=True)
class HeldOut:
    """A division of the TRAIN events.

    Attributes:
        fit: bool [E], events that the grounding may see.
        cold: int64 [C], items without a fit event, by construction.
        warm_partners: CSR [N, N], pairs met by held-out users, rows of warm items.
        cold_partners: CSR [N, N], pairs met by any train user, rows of cold items.
    """

    fit: np.ndarray
    cold: np.ndarray
    warm_partners: sp.csr_matrix
    cold_partners: sp.csr_matrix


def hold_out(
    users: np.ndarray,
    items: np.ndarray,
    n_items: int,
    window: int,
    user_share: float = 0.2,
    item_share: float = 0.1,
    seed: int = 0,
) -> HeldOut:
    """Take users and items out of the train events.

    Args:
        users: int [E] of the TRAIN events, grouped, in time order inside a user.
        items: int [E].
        n_items: N.
        window: two events of a user at most so many steps apart are partners.
        user_share: share of users whose pairs are the answers for warm items.
        item_share: share of the train items that play cold.
        seed: of the choice.
    """
    rng = np.random.default_rng(seed)
    known_users, known_items = np.unique(users), np.unique(items)
    chosen_users = rng.choice(known_users, max(1, int(len(known_users) * user_share)), replace=False)
    cold = np.sort(rng.choice(known_items, max(1, int(len(known_items) * item_share)), replace=False))
    held = np.isin(users, chosen_users)
    is_cold = np.zeros(n_items, dtype=bool)
    is_cold[cold] = True
    fit = ~held & ~is_cold[items]
    warm = windowed_cooccurrence(users[held], items[held], n_items, window)
    everyone = windowed_cooccurrence(users, items, n_items, window)
    return HeldOut(
        fit,
        cold,
        (sp.diags((~is_cold).astype(float)) @ warm).tocsr(),
        (sp.diags(is_cold.astype(float)) @ everyone).tocsr(),
    )


def partner_recall(
    vectors: np.ndarray, partners: sp.csr_matrix, k: int = 10, queries: int = 4000, seed: int = 0
) -> tuple[float, int]:
    """Mean recall@k of partners by cosine over the whole catalogue.

    recall@k of an item = partners among its k nearest items / min(k, number of its partners).

    Args:
        vectors: float32 [N, d], unit rows; zero rows can be found by nobody.
        partners: CSR [N, N]; rows with entries are the queries.
        k: list length.
        queries: most query items looked at, drawn at random.
        seed: of the draw.

    Returns:
        (recall, number of query items).
    """
    import faiss

    partners.sort_indices()
    asked = np.flatnonzero(np.diff(partners.indptr))
    if len(asked) > queries:
        asked = np.sort(np.random.default_rng(seed).choice(asked, queries, replace=False))
    if not len(asked):
        return float("nan"), 0
    have = np.flatnonzero(np.abs(vectors).sum(axis=1) > 0)
    have = have[have > 0]
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors[have], dtype=np.float32))
    _, nearest = index.search(np.ascontiguousarray(vectors[asked], dtype=np.float32), min(k + 1, len(have)))
    total = 0.0
    for item, row in zip(asked, nearest, strict=True):
        found = have[row]
        found = found[found != item][:k]
        answer = partners.indices[partners.indptr[item] : partners.indptr[item + 1]]
        total += len(np.intersect1d(found, answer, assume_unique=True)) / min(k, len(answer))
    return total / len(asked), len(asked)


def retrieval_report(
    held: HeldOut, variants: dict[str, Callable[[], np.ndarray]], k: int = 10
) -> list[dict[str, Any]]:
    """Recall of each variant's vectors, beside the first variant's.

    Args:
        held: what was held out.
        variants: name -> function that gives float32 [N, d] vectors made from the fit events; the first one
            is the reference (raw text).
        k: list length.

    Returns:
        One row per variant: ``variant``, ``warm``, ``cold`` (recall@k), ``warm_ratio``, ``cold_ratio`` to the
        reference, ``warm_items``, ``cold_items`` (queries).
    """
    rows: list[dict[str, Any]] = []
    for name, make in variants.items():
        vectors = make()
        (warm, n_warm), (cold, n_cold) = (
            partner_recall(vectors, partners, k) for partners in (held.warm_partners, held.cold_partners)
        )
        first = rows[0] if rows else {"warm": warm, "cold": cold}
        rows.append(
            {
                "variant": name,
                "warm": warm,
                "warm_ratio": warm / first["warm"] if first["warm"] else float("nan"),
                "cold": cold,
                "cold_ratio": cold / first["cold"] if first["cold"] else float("nan"),
                "warm_items": n_warm,
                "cold_items": n_cold,
            }
        )
    return rows
