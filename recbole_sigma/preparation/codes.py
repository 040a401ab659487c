"""Semantic IDs with a de-duplication digit for TIGER and GateSID, kept in the artifact store."""

from __future__ import annotations

import json
import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from recbole_sigma.data.dataset import PrefixDataset, item_names
from recbole_sigma.grounding.cooccurrence import ppmi_svd, windowed_cooccurrence
from recbole_sigma.grounding.ground import TEACHER_WINDOW, encode_texts
from recbole_sigma.machine.clock import cpu_seconds
from recbole_sigma.machine.files import DELETE, ArtifactStore, fingerprint, reading
from recbole_sigma.preparation.fields import item_texts
from recbole_sigma.settings.keys import ArtifactKeys, CodeKeys, RqVaeKeys, TigerKeys, VectorKeys
from recbole_sigma.settings.reader import read
from recbole_sigma.settings.recbole_keys import RecBoleKeys, RoleKeys
from recbole_sigma.tokenization.health import code_health, collapse
from recbole_sigma.tokenization.published_ids import items_fingerprint, read_codes
from recbole_sigma.tokenization.quantizers import auto_codebook_size, balanced_rq_kmeans, rq_kmeans
from recbole_sigma.tokenization.rq_vae import RQVAEOptions, rq_vae
from recbole_sigma.tokenization.trie import deduplicate
from recbole_sigma.values import ItemCodes, UserError

_CODE_VERSION = 2


class CodedDataset(PrefixDataset):
    """Rows of one target for models that read semantic IDs, which a checkpoint may bring."""

    prepared: ItemCodes | None = None

    def use_prepared(self, extra: dict[str, Any]) -> None:
        """Take the semantic IDs from a checkpoint instead of making them again.

        Raises:
            UserError: the checkpoint's codes belong to other items.
        """
        header = json.loads(extra["codes_header"])
        if header["items_sha256"] != items_fingerprint(item_names(self)[1:]):
            raise UserError(
                f"the checkpoint's semantic IDs belong to other items than dataset '{self.dataset_name}' has "
                "now: its files or filters changed since training"
            )
        self.prepared = ItemCodes(extra["codes"].long(), tuple(header["sizes"]), 0)


def codes_extra(codes: ItemCodes, items_sha256: str) -> dict[str, Any]:
    """Semantic IDs as what travels with weights (`Contract.checkpoint_extra`); `CodedDataset` takes them."""
    header = {"sizes": list(codes.sizes), "items_sha256": items_sha256}
    return {"codes": codes.codes, "codes_header": json.dumps(header)}


def prepare_codes(dataset: Any, config: Any) -> ItemCodes:
    """Make or load the semantic IDs of a dataset, de-duplication digit included.

    Args:
        dataset: the train part of a built dataset.
        config: RecBole config with the keys of TIGER (`settings.keys`).

    Returns:
        codes of all levels; nothing but item metadata and train events went into them.

    Raises:
        UserError: no vectors, or what the quantizer itself refuses.
    """
    keys, own = read(CodeKeys, config), read(RqVaeKeys, config)
    quantizer, logger = keys.tokenizer_quantizer, logging.getLogger()
    tokens = item_names(dataset)
    if quantizer.startswith("file:"):
        fields = read(RoleKeys, config).text_fields
        codes = read_codes(
            quantizer.removeprefix("file:"),
            tokens,
            read(TigerKeys, config).tokenizer_codes_numbering,
            (lambda: item_texts(dataset, fields)) if fields else None,
        )
        sizes = (int(codes.max()) + 1,) * codes.shape[1]
        logger.info("%s", code_health(codes[1:].numpy(), sizes, codes.shape[1]))
        _say_collapse(codes, None)
        if len(torch.unique(codes[1:], dim=0)) == len(codes) - 1:
            return ItemCodes(codes, sizes, 0)
        unique, digits = deduplicate(codes)
        return ItemCodes(unique, (*sizes, digits), 0)
    levels, size = keys.tokenizer_levels, keys.tokenizer_codebook_size or auto_codebook_size(len(tokens) - 1)
    vectors = code_vectors(dataset, config)
    options = RQVAEOptions(
        latent=own.rqvae_latent,
        hidden=own.rqvae_hidden,
        epochs=own.rqvae_epochs,
        batch=own.rqvae_batch,
        learning_rate=own.rqvae_learning_rate,
        weight_decay=own.rqvae_weight_decay,
        seed=read(RecBoleKeys, config).seed,
    )
    used = (
        vars(options) | {"hidden": list(options.hidden)} if quantizer == "rq-vae" else {"seed": options.seed}
    )
    key = fingerprint(
        version=_CODE_VERSION,
        items=tokens,
        vectors=vectors,
        quantizer=quantizer,
        levels=levels,
        size=size,
        options=used,
    )
    store = ArtifactStore(read(ArtifactKeys, config).artifact_dir)
    stored = store.load("tiger-codes", key)
    if stored is not None:
        logger.info("Semantic IDs read from %s", store.path("tiger-codes", key))
        with reading(store.path("tiger-codes", key), DELETE):
            kept = ItemCodes(stored[0]["codes"], tuple(stored[1]["sizes"]), 0)
        _say_collapse(kept.codes[:, :levels], vectors)
        return kept
    started = cpu_seconds()
    if quantizer == "rq-vae":
        show = read(RecBoleKeys, config).show_progress
        bar = (lambda epochs: tqdm(epochs, desc="RQ-VAE", ncols=100)) if show else None
        raw, _ = rq_vae(vectors, (size,) * levels, options, bar)
    else:
        quantize = balanced_rq_kmeans if quantizer == "rq-kmeans-balanced" else rq_kmeans
        raw, _ = quantize(vectors, (size,) * levels, options.seed)
    logger.info("%s", code_health(raw, (size,) * levels, levels))
    padded = torch.cat([torch.zeros(1, levels, dtype=torch.int64), torch.from_numpy(raw)])
    _say_collapse(padded, vectors)
    unique, digits = deduplicate(padded)
    sizes = (*(size,) * levels, digits)
    store.save("tiger-codes", key, {"codes": unique}, {"sizes": list(sizes)}, cpu_seconds() - started)
    return ItemCodes(unique, sizes, 0)


def _say_collapse(codes: Tensor, vectors: np.ndarray | None) -> None:
    """Warn where all items share one code: then the de-duplication digit is a plain item number."""
    sentence = collapse(codes[1:].numpy(), vectors)
    if sentence:
        logging.getLogger().warning(sentence)


def code_vectors(dataset: Any, config: Any) -> np.ndarray:
    """Vectors to quantize [N - 1, d]: item text (the paper's), train co-occurrence, or both."""
    parts = []
    keys, seed = read(VectorKeys, config), read(RecBoleKeys, config).seed
    fields = read(RoleKeys, config).text_fields
    for name in read(CodeKeys, config).tokenizer_vectors:
        if name == "text":
            if not fields:
                raise UserError(
                    f"dataset '{dataset.dataset_name}': the property file names no text_fields, so items "
                    "have no text to quantize; add for example text_fields: [title], or set "
                    "tokenizer_vectors: [collaborative]"
                )
            texts = item_texts(dataset, fields)
            parts.append(encode_texts(texts, keys.grounding_text_encoder, keys.grounding_text_dim, seed))
        elif name == "collaborative":
            users, items = dataset.train_events().sequences()
            window = TEACHER_WINDOW
            counts = windowed_cooccurrence(users, items, dataset.item_num, window)
            parts.append(ppmi_svd(counts, keys.grounding_teacher_dim, seed))
        else:
            raise UserError(
                "tokenizer_vectors: TIGER reads no image vectors; use text, collaborative or both"
            )
    if not parts:
        raise UserError("tokenizer_vectors names no vectors: use [text], [collaborative] or both")
    return np.ascontiguousarray(np.concatenate(parts, axis=1)[1:], dtype=np.float32)
