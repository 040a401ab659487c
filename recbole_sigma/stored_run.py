"""How a trainer keeps the state of its run on disk, and goes on from it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from recbole.utils import set_color
from torch import Tensor

from recbole_sigma import checkpoint as files
from recbole_sigma import distributed, trainer_state
from recbole_sigma.runs import RunFolder

STORE_EVERY = 600.0  # seconds between stored states inside a long epoch, where `checkpoint_steps` is 0
_OF_THE_FILE = ("format", "format_version", "versions", "aliases", "sha256")


class StoredRun:
    """Mixin of `training.SigmaTrainer`: checkpoints of the best epoch, and the state of an unfinished run.

    Attributes:
        run: where the state of an unfinished run is kept; None keeps none.
        origin: digests of the data that the run learns from.
        order_state: the generator of the data's order, as it was when the current epoch began.
        trained: training is over (tests may still be due).
    """

    def _keep_nothing(self) -> None:
        self.run: RunFolder | None = None
        self.origin: dict[str, str] = {}
        self.order_state: Tensor | None = None
        self.trained = False
        self._continued: files.Checkpoint | None = None
        self._last_store = time.monotonic()
        self._last_meta: dict[str, Any] = {}

    # --- checkpoints ---

    def load(self, path: str) -> None:
        """Put the weights of a checkpoint file into the model; rank 0 reads it for all processes."""
        if self.world.main:
            files.load_weights(
                self.model, files.read(path, model=self.config["model"], dataset=self.config["dataset"])
            )
        distributed.same_everywhere(self.model.state_dict())
        self.logger.info(f"Loading model structure and parameters from {path}")

    def _save_checkpoint(self, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        """Write one safetensors file; see `checkpoint`."""
        path = kwargs.pop("saved_model_file", self.saved_model_file)
        state = self.state(epoch)
        if not self.world.main:
            return
        files.write(path, state)
        if verbose:
            self.logger.info(set_color("Saving current", "blue") + f": {path}")

    def state(self, epoch: int, place: dict[str, Any] | None = None) -> files.Checkpoint:
        """Everything that the run holds; see `trainer_state.pack`."""
        return trainer_state.pack(self, epoch, place)

    def resume_checkpoint(self, resume_file: str) -> None:
        """Continue from a checkpoint: weights, optimizer, schedule, generators and early stopping."""
        saved = files.read(resume_file, model=self.config["model"], dataset=self.config["dataset"])
        self.saved_model_file = str(resume_file)
        self.continue_from(saved)

    def continue_from(self, saved: files.Checkpoint) -> None:
        """Go on where a stored state ends, exactly."""
        trainer_state.unpack(self, saved)
        self._continued = saved
        place = saved.meta["place"]
        where = f", batch {place['batches']}" if place else ""
        self.logger.info(f"Checkpoint loaded. Resume training from epoch {self.start_epoch}{where}")

    # --- the state of an unfinished run ---

    def _due(self, done: int) -> bool:
        """Whether the state is stored after this step of an epoch."""
        if self.run is None:
            return False
        steps = int(self.config["checkpoint_steps"] or 0)
        if steps:
            return done % steps == 0
        # by the clock only in a process of its own: storing is collective, and clocks differ
        return not self.world.several and time.monotonic() - self._last_store > STORE_EVERY

    def store(self, epoch: int, place: dict[str, Any] | None = None) -> None:
        """Store the state of this run, if it is kept.

        Args:
            epoch: last finished epoch.
            place: see `trainer_state.pack`.
        """
        if self.run is None or not self.exact:
            return
        if place is not None:  # each process has sums of its own
            every = distributed.gather(json.dumps(place["losses"]).encode())
            place = {**place, "losses": [json.loads(part) for part in every]}
        state = self.state(epoch, place)
        self._last_store = time.monotonic()
        if not self.world.main:
            return
        for name in [name for name in state.tensors if name.startswith("extra/")]:
            del state.tensors[name]  # item preparation is cached on its own
        state.meta |= {
            "extra": {},
            "origin": self.origin,
            "best_file": Path(self.saved_model_file).name,
            "trained": self.trained,
        }
        files.write(self.run.state_path, state)
        self._last_meta = {**state.meta, "optimizer": None, "rng": None, "aliases": {}}

    def finish(self) -> None:
        """Replace the stored state by a note of where the result is, for the same command asked again."""
        if self.run is None or not self.world.main or not self._last_meta:
            return
        files.write(self.run.state_path, files.Checkpoint(meta={**self._last_meta, "finished": True}))

    def accept_finished(self, saved: files.Checkpoint) -> None:
        """Take what a finished run found; its best weights are in `saved_model_file`."""
        self.history = list(saved.meta["history"])
        self.best_valid_score = saved.meta["best_valid_score"]
        self.best_valid_result = saved.meta["best_valid_result"]
        self.best_epoch = saved.meta["best_epoch"]
        self.trained = True
        self._last_meta = {key: value for key, value in saved.meta.items() if key not in _OF_THE_FILE}
