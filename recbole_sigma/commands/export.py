"""The verb ``export``: the language model of a checkpoint as a plain transformers folder, adapters merged."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from recbole_sigma.commands.main import refuse
from recbole_sigma.commands.recommend import options, single
from recbole_sigma.language.grown import build_pretrained, check_empty, export_merged
from recbole_sigma.language.lora import lora_options
from recbole_sigma.run import checkpoint as files
from recbole_sigma.run.config import rebuild_config
from recbole_sigma.settings.keys import BackboneKeys
from recbole_sigma.settings.reader import read
from recbole_sigma.values import UserError

OPTIONS = ("checkpoint", "backbone", "dtype")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_PART = "trunk.backbone."


def export_command(own: dict[str, str], rest: Sequence[str]) -> int:
    """``export --checkpoint=FILE --output=FOLDER [--backbone=pretrained:FOLDER] [--dtype=fp32|bf16]``."""
    refuse(own, [name for name in own if name not in ("output", "quiet")])
    found = options(rest, OPTIONS, "export")
    path, backbone, dtype = (single(found, name) for name in OPTIONS)
    if path is None or "output" not in own:
        raise UserError("export needs --checkpoint=FILE and --output=FOLDER, a new or empty one")
    dtype = "fp32" if dtype is None else dtype
    if dtype not in DTYPES:
        raise UserError(f"--dtype must be fp32 or bf16, not {dtype[:80]!r}")
    target = Path(own["output"])
    check_empty(target)
    model, tokenizer = trained_backbone(path, backbone)
    export_merged(model, tokenizer, target, DTYPES[dtype])
    if "quiet" not in own:
        count = sum(parameter.numel() for parameter in model.parameters())
        print(
            f"model: {count:,} parameters in {dtype}, {tokenizer.get_vocab_size()} tokens, adapters merged\n"
            f"folder: {target}"
        )
    return 0


def trained_backbone(path: str, backbone: str | None = None) -> tuple[Any, Tokenizer]:
    """The pretrained backbone of a SIGMA checkpoint with its trained parts; no dataset is needed.

    Args:
        path: the checkpoint.
        backbone: ``pretrained:<name or folder>`` where the base lies now; None = as when it was trained.

    Returns:
        (model from `build_pretrained`, its tokenizer with the new tokens).

    Raises:
        UserError: no checkpoint, one without a pretrained backbone, or another base.
    """
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
    model = build_pretrained(name, tokenizer, 1, lora_options(config, "backbone_lora"))
    weights = {
        key.removeprefix(_PART): value for key, value in saved.group("model").items() if key.startswith(_PART)
    }
    model.check_base(weights, "")
    model.load_state_dict(weights)
    return model.eval(), tokenizer
