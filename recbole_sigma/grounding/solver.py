"""The dense regressions of `regression`, solved once per set of train events and kept on disk.

At 20,000 items a solution takes minutes and gigabytes. The collaborative memory of every seed, the rows of a
table and `recommend` ask for the same ones.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from recbole_sigma.data.events import Chronology
from recbole_sigma.grounding.regression import ease, next_item_ridge
from recbole_sigma.machine import processes
from recbole_sigma.machine.clock import cpu_seconds
from recbole_sigma.machine.files import DELETE, ArtifactStore, fingerprint, reading
from recbole_sigma.settings.keys import ArtifactKeys
from recbole_sigma.settings.reader import read
from recbole_sigma.values import UserError

STORED = 4_000
"""Items from which a solution is kept: below, it takes seconds."""

NEWEST = 6
"""Solutions that stay in a folder, those written or read last; each is a matrix of items by items."""

_KIND = "regression"
_VERSION = 1


class Solver:
    """Regressions from items to items over TRAIN events.

    A solution that cannot be read is made anew, and one that cannot be written is told and forgotten: both
    may come behind a training, which must not be lost.

    Args:
        users: int [E], events grouped by user, in time order inside a user.
        items: int [E].
        n_items: N.
        device: where matrices are inverted.
        store: where solutions are kept; None keeps none.
    """

    def __init__(
        self,
        users: np.ndarray,
        items: np.ndarray,
        n_items: int,
        device: Any = "cpu",
        store: ArtifactStore | None = None,
    ) -> None:
        self.users, self.items, self.n_items, self.device = users, items, n_items, device
        self.store = store if n_items >= STORED else None

    @classmethod
    def of(cls, events: Chronology, n_items: int, config: Any) -> Solver:
        """Over train events, kept in ``artifact_dir``."""
        store = ArtifactStore(read(ArtifactKeys, config).artifact_dir)
        return cls(*events.sequences(), n_items, config["device"], store)

    def ease(self, ridge: float) -> np.ndarray:
        """See `regression.ease`."""
        return self._kept(
            lambda: ease(self.users, self.items, self.n_items, ridge, self.device), name="ease", ridge=ridge
        )

    def next_item_ridge(self, ridge: float, last: int, decay: float) -> np.ndarray:
        """See `regression.next_item_ridge`."""
        return self._kept(
            lambda: next_item_ridge(self.users, self.items, self.n_items, ridge, last, decay, self.device),
            name="next_item_ridge",
            ridge=ridge,
            last=last,
            decay=decay,
        )

    def _kept(self, solve: Callable[[], np.ndarray], **what: Any) -> np.ndarray:
        """A solution from its file, or solved and filed."""
        store = self.store
        if store is None:
            return solve()
        events = {"users": self.users, "items": self.items, "n_items": self.n_items}
        key, started = fingerprint(version=_VERSION, **what, **events), cpu_seconds()
        found = _read(store, key)
        if found is None:
            logging.getLogger().info(
                "Item-to-item weights are solved over %s items (minutes from 10,000 on) and kept in %s",
                f"{self.n_items:,}",
                store.folder,
            )
            found = solve()
            if processes.current().main:
                _write(store, key, found, cpu_seconds() - started)
        return found


def _read(store: ArtifactStore, key: str) -> np.ndarray | None:
    path = store.path(_KIND, key)
    try:
        stored = store.load(_KIND, key)
        if stored is None:
            return None
        with reading(path, DELETE):
            weights = stored[0]["weights"].numpy()
    except UserError as problem:
        logging.getLogger().warning("%s. It is solved anew now", problem)
        return None
    with contextlib.suppress(OSError):  # a colleague's file
        path.touch()  # among the newest again
    logging.getLogger().info("Item-to-item weights read from %s", path)
    return weights


def _write(store: ArtifactStore, key: str, weights: np.ndarray, took: float) -> None:
    folder = store.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(folder).free < 2 * weights.nbytes:
            raise UserError(f"{folder} has less than {2 * weights.nbytes / 2**30:.1f} GiB free")
        store.save(_KIND, key, {"weights": torch.from_numpy(weights)}, {}, took)
        store.thin(_KIND, NEWEST)
    except (UserError, OSError) as problem:
        logging.getLogger().warning(
            "A matrix of items by items that took %.0f CPU seconds is not kept: %s", took, problem
        )
