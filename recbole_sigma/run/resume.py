"""Going on where the same command was cut off."""

from __future__ import annotations

import json
from logging import getLogger
from pathlib import Path
from typing import Any

from recbole_sigma.machine import processes as distributed
from recbole_sigma.machine.files import fingerprint, reading
from recbole_sigma.models.contract import contract
from recbole_sigma.run import checkpoint as files
from recbole_sigma.run.config import requested_values
from recbole_sigma.run.folder import RunFolder, run_id
from recbole_sigma.run.loaders import Loaders
from recbole_sigma.settings.keys import FileKeys
from recbole_sigma.settings.reader import read
from recbole_sigma.values import UserError


def open_run(config: Any, saved: bool) -> RunFolder | None:
    """Take the folder of this run's state; with ``resume`` the state in it too.

    Raises:
        UserError: ``resume`` without checkpoints, a damaged state, or a run that is still going.
    """
    if not saved:
        if config["resume"]:
            raise UserError("resume: nothing is stored with saved=False, so nothing can be continued")
        return None
    name = run_id(requested_values(config), distributed.current().size)
    world = distributed.current()
    if not world.main:
        folder, stored = json.loads(distributed.broadcast(""))
        return RunFolder.follow(folder, stored)
    run = RunFolder(config["checkpoint_dir"], name, read(FileKeys, config).resume)
    distributed.broadcast(json.dumps([str(run.folder), run.stored is not None]))
    logger = getLogger()
    if config["resume"] and run.stored is None:
        logger.info(f"resume: no state of this command is stored in {run.root}; it starts from the beginning")
    run.announce(logger)
    return run


def continue_run(trainer: Any, run: RunFolder, data: Loaders) -> None:
    """Go on where the stored state ends, if there is one, and keep the state of this run from now on.

    Raises:
        UserError: the state was written for other data or other item preparation, the model's training loop
            cannot be continued, or the best weights are gone.
    """
    trainer.run, trainer.origin = run, origin(trainer.model, data)
    if trainer.starts_from is not None:
        trainer.origin["checkpoint of policy_from"] = trainer.starts_from
    saved = run.stored
    if saved is None:
        if trainer.config["resume"] and not trainer.exact:
            raise UserError(
                f"resume: {trainer.config['model']} has a training loop of its own in RecBole, which cannot "
                "be continued exactly: run the command without --resume"
            )
        return
    with reading(saved.path or run.state_path, files.AGAIN):
        best_file, best_epoch = saved.meta["best_file"], saved.meta["best_epoch"]
        written_for, trained = saved.meta["origin"], saved.meta["trained"]
    for what, digest in trainer.origin.items():
        if written_for.get(what) != digest:
            raise UserError(
                f"resume: the {what} changed since {saved.path} was written: restore it, or run the command "
                "without --resume to start anew"
            )
    best = Path(trainer.config["checkpoint_dir"]) / best_file
    if best_epoch is not None and not best.is_file():
        raise UserError(
            f"resume: {best}, which holds the best weights so far, is gone: run the command without --resume"
        )
    trainer.saved_model_file = str(best)
    if saved.meta.get("finished"):
        trainer.accept_finished(saved)
        getLogger().info(f"the run is finished; its weights are tested again: {best}")
    else:
        trainer.continue_from(saved)
        trainer.trained = trained


def origin(model: Any, data: Loaders) -> dict[str, str]:
    """Digests of what a run learns from: the events and names of the dataset, and the prepared items."""
    dataset = data.train._dataset
    events = dataset.chronology
    names = {
        field: list(map(str, dataset.field2id_token[field]))
        for field in (dataset.uid_field, dataset.iid_field)
    }
    found = {
        "dataset": fingerprint(
            users=events.users, items=events.items, times=events.times, names=names, held=dataset.held_out
        )
    }
    extra = contract(model).checkpoint_extra()
    if extra:
        # text is JSON, whose keys come in another order from the cache
        found["item preparation"] = fingerprint(
            **{name: json.loads(value) if isinstance(value, str) else value for name, value in extra.items()}
        )
    return found
