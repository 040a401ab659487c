"""Does pair mining scale? Seconds, pairs and peak memory of both ways to mine collaborative pairs.

    python benchmarks/pairs.py                                  # 1 million synthetic events, both ways
    python benchmarks/pairs.py --events=10000000 --pairs=swing  # one way alone: the peak is the process's

Events come from hidden communities of items with a long-tailed popularity, as arrays of 32-bit numbers.
The share of drawn pairs inside a community says that what was mined is no noise.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import scipy.sparse as sp

from recbole_sigma.grounding.cooccurrence import windowed_cooccurrence
from recbole_sigma.grounding.swing import swing
from recbole_sigma.grounding.views import collaborative_view
from recbole_sigma.machine.progress import Progress

GROUP = 200  # items of a community
LENGTH = 20  # mean events of a user
FAITHFUL = 0.7  # share of a user's events inside its community


def synthetic(events: int, items: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(users, items) int32 [events], grouped by user, and the community of item i is (i - 1) // GROUP."""
    rng = np.random.default_rng(seed)
    length = rng.geometric(1 / (LENGTH - 4), size=events // LENGTH + 1000) + 4
    length = length[: int(np.searchsorted(length.cumsum(), events, side="right")) + 1]
    users = np.repeat(np.arange(1, len(length) + 1, dtype=np.int32), length)[:events]
    groups = -(-items // GROUP)
    home = rng.integers(0, groups, len(length) + 1)[users]
    rank = (GROUP * rng.random(len(users)) ** 2).astype(np.int32)  # a long tail inside the community
    away = rng.random(len(users)) > FAITHFUL
    home = np.where(away, rng.integers(0, groups, len(users)), home)
    return users, np.minimum(home * GROUP + rank + 1, items).astype(np.int32)


def mine(way: str, users: np.ndarray, items: np.ndarray, n_items: int, show: bool) -> sp.csr_matrix:
    """Pairs as the grounding stage mines them."""
    if way == "adjacency":
        progress = Progress("Mining pairs", -(-len(items) // (1 << 20)), enabled=show)
        found = windowed_cooccurrence(users, items, n_items, 3, on_block=progress.advance)
    else:
        progress = Progress("Mining pairs (swing)", len(np.unique(items)), enabled=show)
        found = swing(users, items, n_items, on_item=progress.advance)
    progress.close()
    return found


def main(arguments: list[str]) -> int:
    """Print one line per way."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=0, help="0 = one per 100 events")
    parser.add_argument("--pairs", choices=["adjacency", "swing", "both"], default="both")
    parser.add_argument("--seed", type=int, default=2020)
    parser.add_argument("--quiet", action="store_true")
    options = parser.parse_args(arguments)
    n_items = 1 + (options.items or max(GROUP, options.events // 100))
    users, items = synthetic(options.events, n_items - 1, options.seed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{len(items):,} events, {users[-1]:,} users, {n_items - 1:,} items; {before:.2f} GiB before mining"
    )
    for way in ("adjacency", "swing") if options.pairs == "both" else (options.pairs,):
        begin = time.process_time()
        view = collaborative_view(mine(way, users, items, n_items, not options.quiet))
        seconds = time.process_time() - begin
        right = float((view.weight * ((view.left - 1) // GROUP == (view.right - 1) // GROUP)).sum())
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(
            f"{way:10s} {seconds:8.1f} CPU-seconds, {len(items) / seconds:10,.0f} events/s,"
            f" {len(view):12,} pairs, {right:.2f} inside a community, peak {peak:.2f} GiB"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
