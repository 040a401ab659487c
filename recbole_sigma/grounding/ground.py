"""Stage (a) as a whole: item text and TRAIN events -> grounded text vectors and collaborative vectors."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from recbole_sigma.grounding.alignment import AlignmentOptions, align, seeded
from recbole_sigma.grounding.cooccurrence import ppmi_svd, windowed_cooccurrence
from recbole_sigma.grounding.retrieval import hold_out, retrieval_report
from recbole_sigma.grounding.sentence import sentence_transformer
from recbole_sigma.grounding.tfidf import TermTower, tfidf_svd, tfidf_terms
from recbole_sigma.grounding.tower import FrozenTower, Tower
from recbole_sigma.grounding.vector_file import store_vectors, stored_vectors
from recbole_sigma.grounding.views import (
    PairView,
    collaborative_view,
    semantic_view,
    shared_value_view,
    visual_view,
)
from recbole_sigma.language.lora import LoraOptions
from recbole_sigma.machine.progress import Progress
from recbole_sigma.values import UserError

PAIRS_PER_ITEM = 4
TEACHER_WINDOW = 10  # largest gap of two events that the teacher counts, in steps
PAIR_WINDOW = 3  # largest gap of a collaborative pair, in steps


@dataclass(frozen=True)
class GroundingOptions:
    """Options of the stage, named as in ``properties/model/SIGMA.yaml`` without their prefix.

    Attributes:
        text_encoder: see `text.encoder_kind`.
        text_dim: width of tfidf-svd.
        teacher_dim: width of the collaborative vectors (PPMI-SVD of train co-occurrence).
        views: kinds of relevance pairs, as ``grounding_views`` lists them; one without data is off.
        align: False leaves the raw text vectors.
        train_encoder: train the encoder's own weights too (word vectors of tfidf-svd, LoRA of causal-lm).
        alignment: losses and optimisation.
        lora: adapters of causal-lm.
        max_tokens: longest item text of causal-lm.
        seed: of everything random.
    """

    text_encoder: str = "tfidf-svd"
    text_dim: int = 128
    teacher_dim: int = 64
    views: tuple[str, ...] = ("collaborative", "taxonomy", "brand")
    align: bool = True
    train_encoder: bool = True
    alignment: AlignmentOptions = AlignmentOptions()
    lora: LoraOptions = LoraOptions()
    max_tokens: int = 64
    seed: int = 0


@dataclass(frozen=True)
class Sources:
    """What pairs and vectors are made from.

    Attributes:
        texts: one per item, row 0 empty.
        labels: ``taxonomy`` and ``brand`` -> one value per item, '' where unknown; a missing view is off.
        image: float32 [N, d_i] unit rows, or None.
    """

    texts: Sequence[str]
    labels: dict[str, list[str]]
    image: np.ndarray | None = None


def ground_items(
    users: np.ndarray,
    items: np.ndarray,
    sources: Sources,
    options: GroundingOptions,
    show_progress: bool = False,
    raw_file: Path | None = None,
    device: str = "cpu",
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Text vectors, teacher vectors, relevance pairs, alignment.

    Args:
        users: int [E], users of the TRAIN events, grouped, in time order inside a user.
        items: int [E], their items.
        sources: see ``Sources``.
        options: see ``GroundingOptions``.
        show_progress: show bars.
        raw_file: where raw vectors of a language model are kept and memory-mapped; None keeps them in memory.
        device: where a language model runs and the alignment trains.

    Returns:
        (text float32 [N, d_t], collaborative float32 [N, d_c], JSON report with item counts, pairs per view
        and losses).
    """
    n = len(sources.texts)
    teacher = ppmi_svd(
        windowed_cooccurrence(users, items, n, TEACHER_WINDOW), options.teacher_dim, options.seed
    )
    report: dict[str, Any] = {
        "taught_items": int((np.abs(teacher).sum(axis=1) > 0).sum()),
        "views": {},
        "losses": [],
    }
    if not options.align:
        text = raw_text_vectors(sources.texts, options, raw_file, device, show_progress)
    else:
        views = mine_views(users, items, sources, options, show_progress)
        report["views"] = {view.name: len(view) for view in views}
        with seeded(options.seed):
            tower = build_tower(sources.texts, options, raw_file, device, show_progress)
            progress = Progress("Grounding items", options.alignment.steps, enabled=show_progress)
            try:
                report["losses"] = align(tower, teacher, views, options.alignment, progress.advance)
            finally:
                progress.close()
            text = tower.vectors()
    report["text_items"] = int((np.abs(text).sum(axis=1) > 0).sum())
    return np.asarray(text), teacher, report


def raw_text_vectors(
    texts: Sequence[str],
    options: GroundingOptions,
    raw_file: Path | None = None,
    device: str = "cpu",
    show_progress: bool = False,
) -> np.ndarray:
    """The encoder's own vectors, before any alignment; a language model's are stored once and mapped.

    Returns:
        float32 [N, d], unit rows.
    """
    kind, name = encoder_kind(options.text_encoder)
    if kind == "tfidf-svd":
        return tfidf_svd(texts, options.text_dim, options.seed)
    stored = None if raw_file is None else stored_vectors(raw_file, len(texts))
    if stored is not None:
        logging.getLogger().info("Text vectors mapped from %s", raw_file)
        return stored
    if kind == "sentence-transformers":
        vectors = sentence_transformer(texts, name, device, show_progress)
        if raw_file is None:
            return vectors
        return store_vectors(raw_file, len(texts), [(np.arange(len(texts)), vectors)])
    from recbole_sigma.grounding.causal import CausalTower

    tower = CausalTower(texts, name, 0, None, options.max_tokens, device, device != "cpu")
    if raw_file is None:
        return tower.vectors()
    known = int(tower.known().sum())
    progress = Progress("Encoding items", -(-known // 64), enabled=show_progress)
    try:
        return store_vectors(raw_file, len(texts), _counted(tower.blocks(), progress.advance))
    finally:
        progress.close()


def _counted(blocks: Iterator[Any], done: Callable[[], None]) -> Iterator[Any]:
    for block in blocks:
        yield block
        done()


def build_tower(
    texts: Sequence[str],
    options: GroundingOptions,
    raw_file: Path | None = None,
    device: str = "cpu",
    show_progress: bool = False,
) -> Tower:
    """The item encoder that `align` trains."""
    kind, name = encoder_kind(options.text_encoder)
    how = options.alignment
    if options.train_encoder and kind == "tfidf-svd":
        terms = tfidf_terms(texts, options.text_dim, options.seed)
        return TermTower(terms, how.hidden, how.dim, how.dropout).to(device)
    if options.train_encoder and kind == "causal-lm":
        from recbole_sigma.grounding.causal import CausalTower

        return CausalTower(texts, name, how.dim, options.lora, options.max_tokens, device, device != "cpu")
    raw = raw_text_vectors(texts, options, raw_file, device, show_progress)
    return FrozenTower(raw, how.hidden, how.dim, how.dropout).to(device)


def minable(view: str, sources: Sources) -> bool:
    """Whether a view has data."""
    if view == "visual":
        return sources.image is not None
    return view in ("collaborative", "semantic") or bool(sources.labels.get(view))


def mine_views(
    users: np.ndarray,
    items: np.ndarray,
    sources: Sources,
    options: GroundingOptions,
    show_progress: bool = False,
) -> list[PairView]:
    """Relevance pairs of every wanted view that has data; behaviour comes from TRAIN events only."""
    n = len(sources.texts)
    views: list[PairView] = []
    for name in options.views:
        if not minable(name, sources):
            continue
        if name == "collaborative":
            progress = Progress("Mining pairs", -(-len(items) // (1 << 20)), enabled=show_progress)
            counts = windowed_cooccurrence(users, items, n, PAIR_WINDOW, on_block=progress.advance)
            progress.close()
            views.append(collaborative_view(counts))
        elif name == "semantic":
            leaves = sources.labels.get("taxonomy") or []
            views.append(semantic_view(sources.texts, leaves, PAIRS_PER_ITEM, options.seed))
        elif name == "visual":
            assert sources.image is not None
            views.append(visual_view(sources.image, PAIRS_PER_ITEM))
        else:
            views.append(shared_value_view(name, sources.labels[name], PAIRS_PER_ITEM, options.seed))
    return views


def alignment_report(
    users: np.ndarray,
    items: np.ndarray,
    sources: Sources,
    options: GroundingOptions,
    each_view: bool = False,
    ablations: bool = False,
    raw_file: Path | None = None,
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """`retrieval.retrieval_report` of raw text, of all views together and, if asked, of parts of the stage.

    Args:
        users: int [E] of the TRAIN events, as in `ground_items`.
        items: int [E].
        sources: see ``Sources``.
        options: see ``GroundingOptions``.
        each_view: add a row for every view alone.
        ablations: add rows without distillation and with the projection alone.
        raw_file: as in `ground_items`; raw vectors follow from the texts alone.
        device: where a language model runs.
    """
    held = hold_out(users, items, len(sources.texts), PAIR_WINDOW, seed=options.seed)
    fit = (users[held.fit], items[held.fit])

    def grounded(changed: GroundingOptions) -> Callable[[], np.ndarray]:
        return lambda: ground_items(*fit, sources, changed, raw_file=raw_file, device=device)[0]

    plain = replace(options, align=True)
    variants = {"raw text": grounded(replace(options, align=False)), "aligned": grounded(plain)}
    if ablations:
        without = replace(options.alignment, kd_weight=0.0)
        variants["no distillation"] = grounded(replace(plain, alignment=without))
        variants["projection only"] = grounded(replace(plain, train_encoder=False))
    if each_view:
        for view in options.views:
            if minable(view, sources):
                variants[f"view {view} alone"] = grounded(replace(plain, views=(view,)))
    return retrieval_report(held, variants)


ENCODERS = ("tfidf-svd", "sentence-transformers", "causal-lm")


def encoder_kind(encoder: str) -> tuple[str, str]:
    """Kind and model name out of ``grounding_text_encoder``.

    Raises:
        UserError: an unknown kind, or a kind that needs a name without one.
    """
    kind, _, name = encoder.partition(":")
    if kind not in ENCODERS or (kind != "tfidf-svd") != bool(name):
        raise UserError(
            f"grounding_text_encoder: '{encoder}' is unknown; use tfidf-svd, sentence-transformers:<name or "
            "folder> or causal-lm:<name or folder>"
        )
    return kind, name


def encode_texts(texts: Sequence[str], encoder: str, dim: int, seed: int) -> np.ndarray:
    """Raw text vectors by the encoder's name, see `encoder_kind`; unit rows, zero rows for empty texts.

    Args:
        texts: one per item, row 0 padding.
        encoder: value of ``grounding_text_encoder``.
        dim: width of ``tfidf-svd``; the other encoders have their own.
        seed: of the randomised SVD.
    """
    kind, name = encoder_kind(encoder)
    if kind == "tfidf-svd":
        return tfidf_svd(texts, dim, seed)
    if kind == "sentence-transformers":
        return sentence_transformer(texts, name)
    from recbole_sigma.grounding.causal import causal_text_vectors

    return causal_text_vectors(texts, name)
