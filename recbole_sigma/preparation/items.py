"""The preprocessing hook between split and model: item text and TRAIN events -> item vectors, semantic IDs,
prompt tokens.

Nothing here reads a validation or test interaction; ``tests/models/test_sigma.py`` and
``tests/grounding/test_leak.py`` hold it to that. Results are cached under a fingerprint of everything that
they depend on.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabulate import tabulate
from tokenizers import Tokenizer
from torch import Tensor

from recbole_sigma.data.dataset import PackedDataset, item_names
from recbole_sigma.grounding.alignment import AlignmentOptions
from recbole_sigma.grounding.ground import (
    GroundingOptions,
    Sources,
    alignment_report,
    encoder_kind,
    ground_items,
)
from recbole_sigma.grounding.vector_file import read_image_vectors
from recbole_sigma.instructions.samples import TaskSet, task_folder, task_report, tasks_of
from recbole_sigma.instructions.tasks import GENERAL, load_tasks
from recbole_sigma.language.backbone import check_backbone
from recbole_sigma.language.loading import check_causal_model, folder_stamp
from recbole_sigma.language.lora import lora_options
from recbole_sigma.language.vocabulary import (
    encode_left_padded,
    pretrained_tokenizer,
    thinned,
    train_bpe,
)
from recbole_sigma.machine.clock import cpu_seconds
from recbole_sigma.machine.files import DELETE, ArtifactStore, fingerprint, reading
from recbole_sigma.preparation.fields import field_strings, item_texts, user_profiles
from recbole_sigma.settings.keys import ArtifactKeys, BackboneKeys, GroundingKeys, TaskKeys, TokenizerKeys
from recbole_sigma.settings.reader import read
from recbole_sigma.settings.recbole_keys import RecBoleKeys, RoleKeys
from recbole_sigma.tokenization.health import code_health, collapse
from recbole_sigma.tokenization.quantizers import auto_codebook_size, balanced_rq_kmeans, rq_kmeans
from recbole_sigma.tokenization.rq_vae import RQVAEOptions, rq_vae
from recbole_sigma.values import ItemCodes, ItemVectors, UserError

CODE_VERSION = 4
"""Raise when a change here or in grounding/, tokenization/, instructions/ changes the results."""


@dataclass(frozen=True)
class PreparationOptions:
    """Options of stages (a) and (b) and of the prompt, named as their keys without the prefix."""

    grounding: GroundingOptions
    quantizer: str
    codebook_size: int
    levels: int
    prefix_length: int
    quantize: tuple[str, ...]
    backbone: str
    bpe_size: int
    seed: int

    @classmethod
    def from_config(cls, config: Any) -> PreparationOptions:
        """Read a RecBole config.

        Raises:
            UserError: values that do not fit together, such as a prefix longer than the semantic ID.
        """
        keys, tokens = read(GroundingKeys, config), read(TokenizerKeys, config)
        views = keys.grounding_views
        levels, wanted = tokens.tokenizer_levels, tokens.tokenizer_prefix_length
        prefix = levels if wanted == "all" else int(wanted)
        if not 0 <= prefix <= levels:
            raise UserError(
                f"tokenizer_prefix_length: {prefix} must be between 0 and tokenizer_levels ({levels})"
            )
        if tokens.tokenizer_quantizer.startswith("file:"):
            raise UserError(
                "tokenizer_quantizer: SIGMA makes its codes itself and reads no file: use rq-kmeans, "
                "rq-kmeans-balanced or rq-vae, or --model=TIGER"
            )
        if "visual" in views and not keys.grounding_visual_file:
            raise UserError(
                "grounding_views: visual needs real image vectors: name them in grounding_visual_file, or"
                " take visual out of the list"
            )
        encoder_kind(keys.grounding_text_encoder)
        seed = read(RecBoleKeys, config).seed
        return cls(
            grounding=GroundingOptions(
                text_encoder=keys.grounding_text_encoder,
                text_dim=keys.grounding_text_dim,
                teacher_dim=keys.grounding_teacher_dim,
                views=views,
                align=keys.grounding_align,
                train_encoder=keys.grounding_train_encoder,
                alignment=AlignmentOptions(
                    dim=keys.grounding_dim,
                    kd_weight=keys.grounding_kd_weight,
                    steps=keys.grounding_steps,
                    batch_pairs=keys.grounding_batch_pairs,
                    encoder_rate=keys.grounding_encoder_rate,
                    chunk=keys.grounding_chunk,
                    seed=seed,
                ),
                lora=lora_options(config),
                max_tokens=keys.grounding_max_tokens,
                seed=seed,
            ),
            quantizer=tokens.tokenizer_quantizer,
            codebook_size=tokens.tokenizer_codebook_size,
            levels=levels,
            prefix_length=prefix,
            quantize=tokens.tokenizer_vectors,
            backbone=read(BackboneKeys, config).backbone,
            bpe_size=tokens.tokenizer_bpe_size,
            seed=seed,
        )


@dataclass(frozen=True)
class Prepared:
    """What a model needs to know about items, users and prompts.

    Attributes:
        vectors: frozen item vectors.
        codes: semantic IDs of the prefix levels and below.
        tokenizer: BPE tokenizer with the semantic-ID tokens.
        profiles: int64 [n_users, P], left-padded tokens before the history; row 0 is RecBole's padding user.
        instructions: int64 [n_templates, I], left-padded tokens of JustForYou; row 0 is the evaluation
            template.
        report: JSON report: losses of the alignment, pair counts, code health, item fingerprint.
    """

    vectors: ItemVectors
    codes: ItemCodes
    tokenizer: Tokenizer
    profiles: Tensor
    instructions: Tensor
    report: dict[str, Any]

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that a store or a checkpoint keeps."""
        image = {} if self.vectors.image is None else {"vectors_image": self.vectors.image}
        return {
            **image,
            "vectors_text": self.vectors.text,
            "vectors_collaborative": self.vectors.collaborative,
            "codes": self.codes.codes,
            "profiles": self.profiles,
            "instructions": self.instructions,
        }

    def header(self) -> dict[str, Any]:
        """The JSON that goes with ``tensors``."""
        return {
            "sizes": list(self.codes.sizes),
            "prefix_length": self.codes.prefix_length,
            "tokenizer": self.tokenizer.to_str(),
            "report": self.report,
        }

    @classmethod
    def restore(cls, tensors: dict[str, Tensor], header: dict[str, Any]) -> Prepared:
        """Inverse of ``tensors`` and ``header``."""
        return cls(
            vectors=ItemVectors(
                tensors["vectors_text"], tensors["vectors_collaborative"], tensors.get("vectors_image")
            ),
            codes=ItemCodes(tensors["codes"], tuple(header["sizes"]), int(header["prefix_length"])),
            tokenizer=Tokenizer.from_str(header["tokenizer"]),
            profiles=tensors["profiles"],
            instructions=tensors["instructions"],
            report=header["report"],
        )


@dataclass(frozen=True)
class Material:
    """Everything that the preparation depends on; nothing of it is a validation or test interaction.

    Attributes:
        item_tokens: names of the items, row 0 is padding.
        users, items: int64 [E], the TRAIN events, grouped by user, in time order inside a user.
        sources: item texts, metadata values, image vectors.
        profiles: one sentence per user.
        templates: wordings of JustForYou.
        tasks: the instruction tasks that the dataset carries, or None for JustForYou alone.
        task_width: longest instruction with several tasks, in tokens.
    """

    item_tokens: list[str]
    users: np.ndarray
    items: np.ndarray
    sources: Sources
    profiles: list[str]
    templates: tuple[str, ...]
    tasks: TaskSet | None
    task_width: int

    @classmethod
    def of(cls, dataset: PackedDataset, config: Any, options: PreparationOptions) -> Material:
        """Collect it from the train part of a split dataset.

        Raises:
            UserError: no text fields named, or a named column or file missing.
        """
        users, items = dataset.train_events().sequences()
        return cls(
            item_names(dataset),
            users,
            items,
            item_sources(dataset, config, options.grounding.views),
            user_profiles(dataset, read(RoleKeys, config).profile_fields),
            load_tasks(task_folder(config))[GENERAL].templates,
            tasks_of(dataset, config),
            read(TaskKeys, config).task_instruction_tokens,
        )

    def key(self, options: PreparationOptions, report: bool) -> str:
        """Fingerprint of the material and of how it is prepared."""
        image = self.sources.image
        return fingerprint(
            version=CODE_VERSION,
            items=self.item_tokens,
            texts=list(self.sources.texts),
            labels=self.sources.labels,
            profiles=self.profiles,
            templates=list(self.templates),
            users=self.users,
            train_items=self.items,
            image=np.zeros(0) if image is None else image,
            models=[folder_stamp(options.grounding.text_encoder), folder_stamp(options.backbone)],
            options=asdict(options),
            report=report,
            **({"tasks": self.tasks.corpus(), "width": self.task_width} if self.tasks else {}),
        )


def item_sources(dataset: PackedDataset, config: Any, views: tuple[str, ...]) -> Sources:
    """Texts, metadata values and image vectors of a dataset's items.

    Raises:
        UserError: no text fields named, or a named column or file missing.
    """
    roles, image_file = read(RoleKeys, config), read(GroundingKeys, config).grounding_visual_file
    if not roles.text_fields:
        raise UserError(
            f"dataset '{dataset.dataset_name}': the property file names no text_fields, so items have no text"
            " to ground; add for example text_fields: [title] and load_col.item: [item_id, title]"
        )
    texts = item_texts(dataset, roles.text_fields)
    labels = {
        view: field_strings(dataset, dataset.item_feat, field, "item") if field else []
        for view, field in (("taxonomy", roles.category_field), ("brand", roles.brand_field))
        if view in views or (view == "taxonomy" and "semantic" in views)
    }
    image = None
    if image_file:
        image = read_image_vectors(image_file, item_names(dataset))
    return Sources(texts, labels, image)


def prepare(dataset: PackedDataset, config: Any) -> Prepared:
    """Prepare items and prompts from the train part of a split dataset, or take them from the cache.

    Args:
        dataset: the train dataset that ``PackedDataset.build`` returned.
        config: RecBole config with SIGMA's keys and the roles of the dataset's property file.

    Raises:
        UserError: no text fields named, a named column missing, or an option out of range.
    """
    if dataset.prepared_extra is not None:
        names = item_names(dataset)
        return from_checkpoint(dataset.prepared_extra, names, dataset.dataset_name)
    options = PreparationOptions.from_config(config)
    material = Material.of(dataset, config, options)
    store = ArtifactStore(read(ArtifactKeys, config).artifact_dir)
    key = material.key(options, read(GroundingKeys, config).grounding_report)
    stored = store.load("items", key)
    logger = logging.getLogger()
    if stored is not None:
        logger.info("Item preparation read from %s", store.path("items", key))
        with reading(store.path("items", key), DELETE):
            _say_retrieval(stored[1]["report"])
            prepared = Prepared.restore(*stored)
        _say_collapse(prepared, options)
        return prepared
    started = cpu_seconds()
    check_models(options)
    vectors, report = ground(material, options, config)
    codes = tokenize(vectors, options)
    health = code_health(codes.codes[1:].numpy(), codes.sizes, codes.prefix_length)
    logger.info(str(health))
    tokenizer, profiles, instructions = word(material, codes, options)
    if material.tasks:
        report["tasks"] = task_report(material.tasks)
    report |= {"health": health.as_dict(), "items_sha256": fingerprint(items=material.item_tokens)}
    prepared = Prepared(vectors, codes, tokenizer, profiles, instructions, report)
    store.save("items", key, prepared.tensors(), prepared.header(), cpu_seconds() - started)
    _say_collapse(prepared, options)
    return prepared


def _say_collapse(prepared: Prepared, options: PreparationOptions) -> None:
    """Warn where all items share one semantic ID that the model uses."""
    codes, length = prepared.codes.codes[1:].numpy(), prepared.codes.prefix_length
    sentence = collapse(codes[:, :length], quantized(prepared.vectors, options)) if length else None
    if sentence:
        logging.getLogger().warning(sentence)


def check_models(options: PreparationOptions) -> None:
    """Refuse models that cannot be used, before anything expensive is done."""
    check_backbone(options.backbone)
    encoder, name = encoder_kind(options.grounding.text_encoder)
    if encoder == "causal-lm":
        check_causal_model(name, "grounding_text_encoder")


def word(
    material: Material, codes: ItemCodes, options: PreparationOptions
) -> tuple[Tokenizer, Tensor, Tensor]:
    """The words of the prompt: a tokenizer with semantic-ID tokens, profiles [n_users, P], instructions [n,
    I].
    """
    sizes, tasks = codes.sizes[: codes.prefix_length], material.tasks
    kind, _, name = options.backbone.partition(":")
    if kind == "pretrained":
        tokenizer = pretrained_tokenizer(name, sizes)
    else:
        texts = [*thinned(material.sources.texts[1:]), *thinned(material.profiles), *material.templates]
        tokenizer = train_bpe([*texts, *(tasks.corpus() if tasks else [])], options.bpe_size, sizes)
    width = None
    if tasks:  # every task's instructions share one width
        longest = encode_left_padded(tokenizer, tasks.texts(), start=False, end=True).shape[1]
        width = min(longest, material.task_width)
    instructions = encode_left_padded(tokenizer, material.templates, start=False, end=True, width=width)
    profiles = encode_left_padded(tokenizer, material.profiles, start=True, end=False)
    return tokenizer, torch.from_numpy(profiles), torch.from_numpy(instructions)


def from_checkpoint(extra: dict[str, Any], item_tokens: list[str], dataset_name: str) -> Prepared:
    """Prepared items out of a checkpoint's extras.

    Raises:
        UserError: the checkpoint was trained on another catalogue.
    """
    tensors = {name: value for name, value in extra.items() if isinstance(value, Tensor)}
    prepared = Prepared.restore(tensors, json.loads(extra["prepared_header"]))
    if prepared.report["items_sha256"] != fingerprint(items=item_tokens):
        raise UserError(
            f"the checkpoint was trained on another item catalogue than dataset '{dataset_name}' has now"
            f" ({len(prepared.codes.codes) - 1} items then, {len(item_tokens) - 1} now): restore the"
            " dataset's files or train again"
        )
    return prepared


def ground(
    material: Material, options: PreparationOptions, config: Any
) -> tuple[ItemVectors, dict[str, Any]]:
    """Stage (a): item vectors, and its report; with ``grounding_report`` what alignment is worth too."""
    sources, how, device = material.sources, options.grounding, str(config["device"])
    raw_file = raw_vector_file(sources, how, read(ArtifactKeys, config).artifact_dir)
    show = read(RecBoleKeys, config).show_progress
    text, teacher, report = ground_items(material.users, material.items, sources, how, show, raw_file, device)
    if read(GroundingKeys, config).grounding_report:
        report["retrieval"] = alignment_report(
            material.users, material.items, sources, how, each_view=True, raw_file=raw_file, device=device
        )
        _say_retrieval(report)
    image = None if sources.image is None else torch.from_numpy(sources.image)
    return ItemVectors(torch.from_numpy(np.array(text)), torch.from_numpy(teacher), image), report


def raw_vector_file(sources: Sources, how: GroundingOptions, folder: str) -> Path:
    """Where raw vectors of a language model are kept: they follow from the texts and the model alone."""
    key = fingerprint(
        version=CODE_VERSION,
        texts=list(sources.texts),
        encoder=[how.text_encoder, folder_stamp(how.text_encoder), how.max_tokens],
    )
    return ArtifactStore(folder).folder / f"text-{key[:24]}.npy"


def _say_retrieval(report: dict[str, Any]) -> None:
    """`grounding_report` as a table in the log."""
    if "retrieval" in report:
        table = tabulate(report["retrieval"], headers="keys", floatfmt=".4f")
        logging.getLogger().info("recall@10 of held-out train partners by text vectors\n%s", table)


def tokenize(vectors: ItemVectors, options: PreparationOptions) -> ItemCodes:
    """Stage (b): the quantizer (``tokenizer_quantizer``) on the named vectors (``tokenizer_vectors``), row 0
    left at zero.

    Raises:
        UserError: no vectors or vectors that were not given, or a codebook larger than the catalogue.
    """
    joined = quantized(vectors, options)
    size = options.codebook_size or auto_codebook_size(len(joined))
    sizes = (size,) * options.levels
    if options.quantizer == "rq-vae":
        codes, _ = rq_vae(joined, sizes, RQVAEOptions(seed=options.seed))
    else:
        quantize = balanced_rq_kmeans if options.quantizer == "rq-kmeans-balanced" else rq_kmeans
        codes, _ = quantize(joined, sizes, options.seed)
    padded = np.concatenate([np.zeros((1, options.levels), dtype=np.int64), codes])
    return ItemCodes(torch.from_numpy(padded), sizes, options.prefix_length)


def quantized(vectors: ItemVectors, options: PreparationOptions) -> np.ndarray:
    """The vectors that ``tokenizer_vectors`` names, side by side, float32 [N - 1, d].

    Raises:
        UserError: no vectors, or vectors that were not given.
    """
    known = {"text": vectors.text, "collaborative": vectors.collaborative}
    if vectors.image is not None:
        known["image"] = vectors.image
    if not options.quantize or not set(options.quantize) <= known.keys():
        raise UserError(
            f"tokenizer_vectors: {list(options.quantize)} must name at least one of {list(known)}"
            "; image needs grounding_visual_file"
        )
    return torch.cat([known[name] for name in options.quantize], dim=1).numpy()[1:]
