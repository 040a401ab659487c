"""The verb ``export``: items with vectors and semantic IDs, a model as a folder, or its language model."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from recbole_sigma.commands.words import MOVED, add_verb, moved_places, refuse_rest
from recbole_sigma.settings.keys import BackboneKeys
from recbole_sigma.settings.reader import read
from recbole_sigma.settings.reading import nearest
from recbole_sigma.values import UserError

DTYPES = {"fp32": "float32", "bf16": "bfloat16"}  # of torch
_PART = "trunk.backbone."


def add(verbs: Any) -> None:
    """Declare the verb."""
    parser = add_verb(
        verbs,
        "export",
        export,
        "items with vectors and semantic IDs, a model to pass on, or its language model, as a folder",
        (
            "export --checkpoint=latest --output=items",
            "export --output=items --append=new.item",
            "export --what=model --checkpoint=latest --output=my-model --push=OWNER/NAME",
            "export --what=language --checkpoint=saved/FILE --output=my-lm --dtype=bf16",
        ),
        {
            "what": "WHAT  items (vectors and semantic IDs with the items' names), model (weights, settings, "
            "model card) or language (a pretrained backbone with adapters merged)",
            "checkpoint": "FILE  the trained model; latest is the newest below saved/",
            "output": "FOLDER  a new or empty one",
            "format": "FORM  of items: npy (items.tsv beside arrays) or parquet",
            "append": "FILE  new items for a folder of items; codes of the old ones stay",
            "results": "FILE  of a model: the results.json that judged it, where it does not lie beside it",
            "push": "OWNER/NAME  of a model: put the folder on the hub",
            "dtype": "TYPE  of a language model: fp32, or bf16, which halves it",
            **MOVED,
        },
    )
    parser.add_argument(
        "--with_data", action="store_true", help="of a model: the data set's files too, where its terms allow"
    )


ONLY = {
    "items": ("format", "append"),
    "model": ("results", "push", "with_data"),
    "language": ("dtype",),
}
"""Options that one kind alone reads."""


def export(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Write what was asked for."""
    what = options.what or "items"
    kinds: dict[str, Callable[[argparse.Namespace], dict[str, Any]]]
    kinds = {"items": _items, "model": _model, "language": _language}
    named = [name for names in ONLY.values() for name in names]
    refuse_rest("export", rest, ("what", "checkpoint", "output", *named, *MOVED))
    if what not in kinds:
        raise UserError(f"--what must be one of {', '.join(kinds)}, not {what[:40]!r}{nearest(what, kinds)}")
    for kind, names in ONLY.items():
        for name in names:
            if kind != what and vars(options)[name]:
                raise UserError(f"--{name} belongs to export --what={kind}")
    if options.append is not None:
        if options.output is None or options.checkpoint is not None:
            raise UserError("--append=FILE needs --output=FOLDER, which export filled, and no checkpoint")
    elif options.checkpoint is None or options.output is None:
        raise UserError("export needs --checkpoint=FILE and --output=FOLDER, a new or empty one")
    told = kinds[what](options)
    if options.json:
        print(json.dumps(told))
    elif not options.quiet:
        print("\n".join(f"{name}: {value}" for name, value in told.items()))
    return 0


def _items(options: argparse.Namespace) -> dict[str, Any]:
    from recbole_sigma.sharing.items import append_items, export_items

    folder = Path(options.output)
    if options.append is not None:
        manifest = append_items(folder, options.append)
    else:
        manifest = export_items(options.checkpoint, folder, options.format or "npy", moved_places(options))
    newest = manifest["generations"][-1]
    return {
        "folder": str(folder),
        "files": ", ".join(sorted(path.name for path in folder.iterdir())),
        "generation": f"{newest['generation']}, with {newest['items']} items",
    }


def _model(options: argparse.Namespace) -> dict[str, Any]:
    from recbole_sigma.sharing.pretrained import describe, push_to_hub, save_pretrained

    folder = save_pretrained(
        options.checkpoint, options.output, options.results, options.with_data, moved_places(options)
    )
    told = describe(folder)
    told["files"] = ", ".join(told["files"])
    told["load it"] = f"recommend --checkpoint={folder}, or recbole_sigma.sharing.pretrained.from_pretrained"
    if options.push is not None:
        told["on the hub"] = push_to_hub(folder, options.push)
    return told


def _language(options: argparse.Namespace) -> dict[str, Any]:
    """The language model of a checkpoint as a plain transformers folder."""
    dtype = options.dtype or "fp32"
    if dtype not in DTYPES:
        raise UserError(f"--dtype must be fp32 or bf16, not {dtype[:80]!r}")
    import torch

    from recbole_sigma.language.grown import check_empty, export_merged

    target = Path(options.output)
    check_empty(target)
    model, tokenizer = trained_backbone(options.checkpoint, options.backbone)
    export_merged(model, tokenizer, target, vars(torch)[DTYPES[dtype]])
    count = sum(parameter.numel() for parameter in model.parameters())
    return {
        "model": f"{count:,} parameters in {dtype}, {tokenizer.get_vocab_size()} tokens, adapters merged",
        "folder": str(target),
    }


def trained_backbone(path: str, backbone: str | None = None) -> tuple[Any, Any]:
    """The pretrained backbone of a SIGMA checkpoint with its trained parts; no dataset is needed.

    Args:
        path: the checkpoint.
        backbone: ``pretrained:<name or folder>`` where the base lies now; None = as when it was trained.

    Returns:
        (model from `build_pretrained`, its tokenizer with the new tokens).

    Raises:
        UserError: no checkpoint, one without a pretrained backbone, or another base.
    """
    from tokenizers import Tokenizer

    from recbole_sigma.language.grown import build_pretrained
    from recbole_sigma.language.lora import lora_options
    from recbole_sigma.run import checkpoint as files
    from recbole_sigma.run.config import rebuild_config

    saved = files.read(path)
    config = rebuild_config(saved.meta["config"], {} if backbone is None else {"backbone": backbone})
    kind, _, name = read(BackboneKeys, config).backbone.partition(":")
    if kind != "pretrained":
        has = f"the backbone {config['backbone']}" if config["backbone"] else "no language model"
        raise UserError(
            f"{path} holds {config['model']} with {has}: only a pretrained backbone can be exported, train"
            " with --backbone=pretrained:<name or folder>"
        )
    tokenizer = Tokenizer.from_str(json.loads(files.extra_of(saved)["prepared_header"])["tokenizer"])
    model = build_pretrained(name, tokenizer, 1, lora_options(config))
    weights = {
        key.removeprefix(_PART): value for key, value in saved.group("model").items() if key.startswith(_PART)
    }
    model.check_base(weights, "")
    model.load_state_dict(weights)
    return model.eval(), tokenizer
