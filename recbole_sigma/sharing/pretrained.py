"""A trained model as a folder that others load: weights, settings, figures, and a page that says what it is.

save_pretrained("saved/SIGMA.safetensors", "my-model")
from_pretrained("my-model").recommend(history=["Toy Story", "Aladdin"])
push_to_hub("my-model", "me/my-model")

Nothing in the folder is code or a pickle. The data stays where it is, unless it is asked for: most sets may
not be passed on.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from recbole_sigma import __version__
from recbole_sigma.language.grown import check_empty
from recbole_sigma.machine.files import write_atomically
from recbole_sigma.recommend.recommender import Recommender
from recbole_sigma.run import checkpoint as files
from recbole_sigma.run.config import rebuild_config
from recbole_sigma.sharing.card import card, record_of
from recbole_sigma.values import UserError

WEIGHTS, SETTINGS, RESULTS, CARD = "model.safetensors", "config.json", "results.json", "README.md"
DATA = "data"
_SUFFIXES = ("inter", "item", "user", "kg", "link", "net", "yaml")


def save_pretrained(
    checkpoint: str | Path,
    folder: str | Path,
    results: str | Path | None = None,
    with_data: bool = False,
    overrides: dict[str, Any] | None = None,
) -> Path:
    """Write a checkpoint as a folder that `from_pretrained` reads.

    Args:
        checkpoint: the trained model, or a row of a table.
        folder: a new or empty one.
        results: the results.json that judged it; None looks for it below the folder of the checkpoint.
        with_data: put the data set's files in too; only where its terms allow to pass them on.
        overrides: keys to change, such as ``data_path`` where the data lies elsewhere now.

    Returns:
        The folder.

    Raises:
        UserError: no such checkpoint, a model that makes no lists, a folder that is not empty, results of
            another model, or no data to copy.
    """
    target = Path(folder)
    check_empty(target)
    saved = files.read(checkpoint)
    saved.meta["config"] = {**saved.meta["config"], **(overrides or {})}
    record = record_of(Path(checkpoint), None if results is None else Path(results))
    if rebuild_config(saved.meta["config"])["judged_by"] == "labels":
        raise UserError(
            f"{checkpoint} holds {saved.meta['model']}, which was trained on labelled rows and makes no "
            "lists: from_pretrained could not load it, so pass the checkpoint itself on"
        )
    settings = {
        "library": "recbole-sigma",
        "version": __version__,
        "model": saved.meta["model"],
        "dataset": saved.meta["dataset"],
        "settings": saved.meta["config"],
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    # whole, or not there at all: a folder with weights counts as a model
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as name:
        fresh = Path(name) / "model"
        fresh.mkdir()
        files.write(fresh / WEIGHTS, saved)
        write_atomically(fresh / SETTINGS, json.dumps(settings, indent=1, sort_keys=True).encode())
        if record is not None:
            write_atomically(fresh / RESULTS, json.dumps(record, indent=1).encode())
        if with_data:
            _copy_data(saved.meta, fresh / DATA / saved.meta["dataset"])
        write_atomically(fresh / CARD, card(saved.meta, record, with_data).encode())
        if target.is_dir():
            target.rmdir()  # it is empty
        os.rename(fresh, target)
    return target


def _copy_data(meta: dict[str, Any], target: Path) -> None:
    source = Path(
        rebuild_config(meta["config"])["data_path"]  # RecBole has put the name of the set behind it
    )
    found = [path for path in sorted(source.glob(f"{meta['dataset']}.*")) if path.suffix[1:] in _SUFFIXES]
    if not found:
        raise UserError(
            f"--with_data: {source} holds no files of {meta['dataset']}: name it with --data_path"
        )
    target.mkdir(parents=True)
    for path in found:
        shutil.copyfile(path, target / path.name)


def weights_in(folder: Path) -> Path | None:
    """The checkpoint in a folder of `save_pretrained`; None where it is none."""
    return folder / WEIGHTS if (folder / WEIGHTS).is_file() else None


def from_pretrained(
    name: str | Path, data_path: str | Path | None = None, revision: str | None = None
) -> Recommender:
    """Load a model that `save_pretrained` wrote.

    Args:
        name: a folder, or OWNER/NAME on the hub.
        data_path: the folder that holds the data set's folder; None is the data in the folder, or where it
            lay when the model was trained.
        revision: branch, tag or commit on the hub.

    Returns:
        What makes lists: `recommend` and `answer`, with ``model``, ``dataset`` and ``config``.

    Raises:
        UserError: neither a folder nor reachable on the hub, no model of ours, or no data.
    """
    folder = Path(name)
    if not folder.is_dir():
        folder = _from_hub(str(name), revision)
    weights = weights_in(folder)
    if weights is None:
        raise UserError(f"{name} is no folder of save_pretrained: it has no {WEIGHTS}")
    if data_path is None and (folder / DATA).is_dir():
        data_path = folder / DATA
    return Recommender.load(str(weights), {} if data_path is None else {"data_path": str(data_path)})


def _from_hub(name: str, revision: str | None) -> Path:
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UserError(f"{name}: no such folder; a model on the hub is named OWNER/NAME")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    kept = [WEIGHTS, SETTINGS, RESULTS, CARD, f"{DATA}/*"]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=kept))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        what = str(error).strip().split("\n")[0]
        raise UserError(
            f"{name} is no folder here, and the hub does not give it ({what[:200]}): check the name, the "
            "network, and HF_TOKEN for a private model"
        ) from error


def push_to_hub(folder: str | Path, name: str, private: bool = True) -> str:
    """Put a folder of `save_pretrained` on the hub.

    Args:
        folder: it.
        name: OWNER/NAME; made where it is not there. HF_TOKEN, or `hf auth login`, says who you are.
        private: whether only you see a model that is made now.

    Returns:
        The address.

    Raises:
        UserError: no such folder, no right to write there, or no network.
    """
    folder = Path(folder)
    if weights_in(folder) is None:
        raise UserError(f"{folder} is no folder of save_pretrained: it has no {WEIGHTS}")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    api = HfApi(library_name="recbole-sigma", library_version=__version__)
    try:
        api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message=f"recbole-sigma {__version__}")
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        what = str(error).strip().split("\n")[0]
        raise UserError(
            f"{name}: the hub did not take the model ({what[:200]}); HF_TOKEN, network?"
        ) from error
    return f"https://huggingface.co/{name}"


def describe(folder: Path) -> dict[str, Any]:
    """Model, data set and files of a folder, for a command's last lines."""
    settings = json.loads((folder / SETTINGS).read_text())
    return {
        "folder": str(folder),
        "model": settings["model"],
        "dataset": settings["dataset"],
        "files": sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()),
    }
