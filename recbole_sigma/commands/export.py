"""The verb ``export``: the language model of a checkpoint as a plain transformers folder, adapters merged."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recbole_sigma.commands.words import add_verb, refuse_rest
from recbole_sigma.settings.keys import BackboneKeys
from recbole_sigma.settings.reader import read
from recbole_sigma.values import UserError

DTYPES = {"fp32": "float32", "bf16": "bfloat16"}  # of torch
_PART = "trunk.backbone."


def add(verbs: Any) -> None:
    """Declare the verb."""
    add_verb(
        verbs,
        "export",
        export,
        "the language model of a checkpoint as a transformers folder, adapters merged",
        (
            "export --checkpoint=saved/FILE --output=my-model",
            "export --checkpoint=saved/FILE --output=my-model --dtype=bf16 --backbone=pretrained:FOLDER",
        ),
        {
            "checkpoint": "FILE  a SIGMA trained with a pretrained backbone",
            "output": "FOLDER  a new or empty one",
            "dtype": "TYPE  fp32, or bf16, which halves it",
            "backbone": "pretrained:FOLDER  where the base lies now",
        },
    )


def export(options: argparse.Namespace, rest: Sequence[str]) -> int:
    """Write the language model of a checkpoint."""
    refuse_rest("export", rest, ("checkpoint", "output", "dtype", "backbone"))
    if options.checkpoint is None or options.output is None:
        raise UserError("export needs --checkpoint=FILE and --output=FOLDER, a new or empty one")
    dtype = options.dtype or "fp32"
    if dtype not in DTYPES:
        raise UserError(f"--dtype must be fp32 or bf16, not {dtype[:80]!r}")
    import torch

    from recbole_sigma.language.grown import check_empty, export_merged

    target = Path(options.output)
    check_empty(target)
    model, tokenizer = trained_backbone(options.checkpoint, options.backbone)
    export_merged(model, tokenizer, target, vars(torch)[DTYPES[dtype]])
    if not options.quiet:
        count = sum(parameter.numel() for parameter in model.parameters())
        print(
            f"model: {count:,} parameters in {dtype}, {tokenizer.get_vocab_size()} tokens, adapters merged\n"
            f"folder: {target}"
        )
    return 0


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
