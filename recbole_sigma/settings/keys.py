"""Every key of ours, once: its default, its meaning, and the values it may hold.

A stage of the method is a frozen dataclass and a key is its field, so that ``grep grounding_dim`` finds the
definition and every reader. ``--help``, the checks, the error messages and docs/settings.md are printed from
here; property files hold only what differs. `recbole_sigma.settings.reader` reads a stage out of a config.

This module imports neither torch nor RecBole: the command line reads it before either is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


def key(
    default: Any,
    help_: str,
    low: float | None = None,
    high: float | None = None,
    *,
    choices: tuple[Any, ...] = (),
    words: tuple[str, ...] = (),
) -> Any:
    """A field that is a key.

    Args:
        default: its value where nobody sets it.
        help_: what it does, one sentence.
        low: least number.
        high: greatest number.
        choices: the only values, of a list the only members; text is compared without case. One such as
            ``file:<path>`` stands for any text that begins that way.
        words: words that may stand in place of a value of the field's type.
    """
    about = {"help": help_, "low": low, "high": high, "choices": choices, "words": words}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=about)
    return field(default=default, metadata=about)


def newest_key(which: str, high: int = 1_000_000) -> Any:
    """A field that says how many of the newest events count; ``auto`` follows the train histories."""
    told = f"Newest events {which}; auto = 20, or 3 where users have fewer than 20 train events"
    return key("auto", told, 1, high, words=("auto",))


@dataclass(frozen=True)
class ProtocolKeys:
    """What every model is judged by."""

    filter_seen: bool = key(True, "Never recommend what the user met before the judged event")
    limit: int = key(
        0, "Keep the first so many users of the data set, for a quick look; 0 = all", 0, 1_000_000_000
    )
    prefix_survival_users: int = key(
        100, "Rows, drawn by seed, that the metric prefix_survival is measured on; 0 = all", 0, 1 << 40
    )


@dataclass(frozen=True)
class MemoryKeys:
    """Collaborative memory: score + w m, m what closed forms over the train events say of the item."""

    memory: str = key(
        "none",
        "Off, w chosen on the validation part, or w = memory_weight",
        choices=("none", "validation", "fixed"),
    )
    memory_weight: float = key(0.05, "The weight w where memory is fixed", 0.0, 1e6)
    memory_parts: tuple[str, ...] = key(
        ("neighbours", "next", "history"),
        "What is summed: neighbours as in WindowItemKNN, next as in NextItemRidge, history as in "
        "HistoryEASE; above 30,000 items neighbours alone",
        choices=("neighbours", "next", "history"),
    )
    memory_window: int = key(10, "Largest gap, in steps, of two events that count as a pair", 1, 1_000_000)
    memory_shrink: float = key(10.0, "Added to the denominator of the cosine", 0.0, 1e9)
    memory_forward: float = key(
        0.9, "Share of a pair's vote that goes from the earlier item to the later; 0.5 = symmetric", 0.0, 1.0
    )
    memory_ridge: float = key(100.0, "What keeps the weights of next and history small", 1e-6, 1e9)
    memory_last: int | str = newest_key("of the history that neighbours and next read")
    memory_decay: float = key(0.8, "Weight of an event per step of age there", 0.0, 1.0)


@dataclass(frozen=True)
class TrainKeys:
    """How the trainer steps."""

    train_schedule: str = key(
        "constant",
        "Learning rate over the epochs; cosine ends at 5 % of the peak",
        choices=("constant", "cosine", "inverse_sqrt"),
    )
    train_warmup_epochs: int = key(
        0, "Epochs of linear warm-up before the schedule; at full rate for inverse_sqrt", 0, 1_000_000
    )
    train_clip_norm: float = key(0.0, "Gradient norm limit, 0 for none", 0.0, 1e9)
    train_precision: str = key(
        "fp32",
        "Matrix products in training; auto is bf16 on an accelerator that has it",
        choices=("fp32", "bf16", "auto"),
    )
    train_compile: str = key(
        "auto",
        "auto: on a GPU, steps of equal shapes are recorded once and replayed (CUDA graphs); "
        "on: torch.compile as well, on any device; the first step then takes a minute",
        choices=("auto", "on", "off"),
    )
    train_accumulation: int = key(
        1, "Pieces a batch is computed in (gradient accumulation): same steps, less memory", 1, 1 << 20
    )
    valid_users: int = key(
        0,
        "Rows of the validation part, drawn by seed, that epochs are judged on, for models that read "
        "histories; 0 = all",
        0,
        1 << 40,
    )
    log_to: str = key(
        "none",
        "Where losses and metrics of every epoch go besides the log: log_tensorboard/, W&B or MLflow",
        choices=("none", "tensorboard", "wandb", "mlflow"),
    )


@dataclass(frozen=True)
class SoftmaxKeys:
    """Large catalogues: which items a training step computes."""

    softmax_negatives: int | str = key(
        "auto",
        "Items drawn per step to stand for the catalogue in the softmax; a step then computes and updates "
        "only the items it meets; 0 = the whole catalogue; auto = 0, or 8192 from 200,000 items on",
        0,
        1 << 30,
        words=("auto",),
    )


@dataclass(frozen=True)
class RowKeys:
    """What a training row is."""

    train_rows: str = key(
        "windows",
        "windows: the events of a user, with a loss at every position; prefixes: a row per event, with a "
        "loss at its last position alone, as RecBole trains, which costs two to four times as much",
        choices=("windows", "prefixes"),
    )


@dataclass(frozen=True)
class ProcessKeys:
    """Processes that share each batch."""

    nproc: int = key(1, "Processes on this machine; each takes its share of every batch", 1, 1 << 16)
    world_size: int = key(-1, "Processes on all machines; -1 = nproc", -1, 1 << 20)
    ip: str = key("localhost", "Address of the machine that runs process 0")
    port: int = key(0, "Port of process 0; 0 = a free one, where there is one machine", 0, 65535)
    group_offset: int = key(0, "Processes on the machines before this one", 0, 1 << 20)


@dataclass(frozen=True)
class FileKeys:
    """Where a run writes, and how it goes on."""

    log_dir: str = key("log", "Folder of the log files")
    resume: bool = key(
        False, "Go on where the same command was cut off; from the beginning if it never started"
    )
    checkpoint_steps: int = key(
        0,
        "Store the run's state every so many steps too; 0 = at epoch ends and every 10 minutes",
        0,
        1_000_000_000,
    )


@dataclass(frozen=True)
class ArtifactKeys:
    """Where prepared data is kept between runs."""

    artifact_dir: str = key("saved/artifacts", "Where prepared items and item-to-item weights are kept")


@dataclass(frozen=True)
class VectorKeys:
    """Item vectors before training: text and collaborative teacher."""

    grounding_text_encoder: str = key(
        "tfidf-svd",
        "tfidf-svd, sentence-transformers:<name or folder> (frozen) or causal-lm:<name or folder>",
    )
    grounding_text_dim: int = key(128, "Width of the tfidf-svd text vectors", 1, 1 << 16)
    grounding_teacher_dim: int = key(64, "Width of the teacher vectors", 1, 1 << 16)


@dataclass(frozen=True)
class GroundingKeys(VectorKeys):
    """Stage (a): item text and train interactions become item vectors."""

    grounding_views: tuple[str, ...] = key(
        ("collaborative", "taxonomy", "brand"),
        "Relevance pairs; a view without its field is off",
        choices=("collaborative", "semantic", "taxonomy", "brand", "visual"),
    )
    grounding_align: bool = key(
        True, "Train the projection; False = raw text vectors (ablation: no grounding)"
    )
    grounding_visual_file: str | None = key(
        None, "Image vectors name.npy beside name.items.txt; the visual view and fusion input image"
    )
    grounding_train_encoder: bool = key(
        True, "Train the text encoder's own weights too: words of tfidf-svd, LoRA of causal-lm"
    )
    grounding_dim: int = key(64, "Width of the grounded text vectors", 1, 1 << 16)
    grounding_kd_weight: float = key(1.0, "lambda of L_CL + lambda L_KD; 0 = no distillation", 0.0, 1e6)
    grounding_steps: int = key(500, "Optimiser steps of the projection", 1, 1 << 30)
    grounding_batch_pairs: int = key(256, "Pairs per step", 2, 1 << 20)
    grounding_encoder_rate: float = key(0.0001, "Step size of a causal-lm encoder", 0.0, 10.0)
    grounding_max_tokens: int = key(64, "Longest item text of a causal-lm encoder, in tokens", 2, 1 << 16)
    grounding_chunk: int = key(
        0, "Items encoded at a time in a step (gradient caching); 0 = the whole batch", 0, 1 << 20
    )
    grounding_report: bool = key(
        False, "Report recall@10 of held-out train partners before and after alignment"
    )


@dataclass(frozen=True)
class LoraKeys:
    """Low-rank adapters of a pretrained backbone and of a causal-lm encoder."""

    lora_rank: int = key(16, "Rank of the adapters; 0 = train all weights", 0, 1 << 12)
    lora_alpha: float = key(32.0, "Scale of the update, alpha / rank")
    lora_dropout: float = key(0.05, "Dropout on the input of the adapters", 0.0, 0.99)
    lora_targets: tuple[str, ...] = key(
        ("all-linear",), "all-linear, or last parts of module names such as q_proj"
    )


@dataclass(frozen=True)
class CodeKeys:
    """Semantic IDs: vectors become codes."""

    tokenizer_quantizer: str = key(
        "rq-kmeans",
        "How vectors become codes; TIGER also reads codes from the file of a published index",
        choices=("rq-kmeans", "rq-kmeans-balanced", "rq-vae", "file:<path>"),
    )
    tokenizer_vectors: tuple[str, ...] = key(
        ("text", "collaborative"),
        "What is quantized, side by side: grounded text, teacher, for SIGMA also grounding_visual_file",
        choices=("text", "collaborative", "image"),
    )
    tokenizer_levels: int = key(3, "Levels of the semantic ID, before any de-duplication digit", 1, 26)
    tokenizer_codebook_size: int = key(
        0, "Codes per level; 0 = about 64 items per first-level code", 0, 1 << 20
    )


@dataclass(frozen=True)
class TokenizerKeys(CodeKeys):
    """Stage (b): the hybrid token, semantic prefix and item token, and the text vocabulary."""

    tokenizer_prefix_length: int | str = key(
        1, "Leading levels used as prefix; 0 = pure item token, all = pure semantic ID", words=("all",)
    )
    tokenizer_bpe_size: int = key(
        1000, "Text vocabulary of the BPE tokenizer trained on item texts and templates", 1, 1 << 20
    )


@dataclass(frozen=True)
class FusionKeys:
    """Stage (b): what an item token is made of."""

    fusion_inputs: tuple[str, ...] | None = key(
        None,
        "Frozen vectors inside the item token: id (teacher), text (grounded), image (grounding_visual_file); "
        "~ = by sigma_history",
        choices=("id", "text", "image"),
    )
    fusion_hidden: int = key(0, "Hidden width of the fusion MLP; 0 = sum of the projections", 0, 1 << 20)
    fusion_id_residual: bool | None = key(
        None, "Add a trained vector per item (ours); ~ = True for joint, False for paper"
    )
    fusion_hide_id: float | None = key(
        None,
        "Share of history items that a training step reads without their trained vector, as if they were "
        "new (ours); ~ = by sigma_history",
        0.0,
        1.0,
    )
    item_gate: bool = key(
        False,
        "GateSID's gate inside the item token: w text + (1 - w) the rest, w from the item and what train "
        "says of it",
    )


@dataclass(frozen=True)
class BackboneKeys:
    """Stage (c): the language model that reads the history."""

    backbone: str = key(
        "scratch:tiny", "scratch:tiny, scratch:small, scratch:base, or pretrained:<name or folder>"
    )
    backbone_checkpointing: bool = key(
        False, "Recompute activations in the backward pass: less memory, more time"
    )
    backbone_dropout: float | None = key(
        None, "Embedding, attention and residual dropout; ~ = by sigma_history", 0.0, 0.99
    )


@dataclass(frozen=True)
class TaskKeys:
    """Stage (c): instruction tasks."""

    tasks: tuple[str, ...] = key(
        ("JustForYou",), "Instruction tasks to train, or all; without fields or support a task is off"
    )
    task_labels_per_row: int | None = key(
        None, "Instruction labels of a packed row; ~ = by sigma_history and tasks", 0, 1 << 10
    )
    task_label_share: float | None = key(
        None,
        "Share of the batches that carry labels, less saves time; ~ = by sigma_history and tasks",
        0.0,
        1.0,
    )
    task_dir: str | None = key(None, "Folder of task files; ~ = the shipped ones")
    task_instruction_tokens: int = key(
        32, "Longest instruction with several tasks; longer ones lose their beginning", 4, 1 << 10
    )
    task_category_level: int = key(
        2, "Node of the category path that names a category; 0 = flat labels (genres)", 0, 100
    )
    task_lag_days: float | None = key(
        7.0, "Days from use to interaction (reviews lag purchases); ~ = times tell no season", 0.0, 366.0
    )
    task_hemisphere: str = key("north", "Seasons of the north or the south", choices=("north", "south"))
    task_eval_rows: int = key(5000, "Test rows judged per task after training; 0 = all", 0, 1 << 30)
    task_empty_history: bool = key(
        False, "Train and judge users' first events too (search data); needs tasks"
    )


@dataclass(frozen=True)
class SigmaKeys:
    """Stage (c): SIGMA's objective and the paths into the query."""

    sigma_objective: str = key(
        "joint",
        "One softmax over the catalogue (joint, ours), or the paper's L_NTP + gamma L_ID (paper)",
        choices=("joint", "paper"),
    )
    sigma_history: str = key(
        "auto",
        "What suits the histories; auto reads the mean number of train events per user, 20 or more are long",
        choices=("auto", "short", "long"),
    )
    sigma_paths: tuple[str, ...] | None = key(
        None,
        "Straight paths to the query beside the trunk (ours); ~ = by sigma_history",
        choices=("recency", "interest"),
    )
    prefix_head: str = key(
        "learned",
        "What a first-level code adds to the logit of its items (joint): learned vectors, or etf = a fixed "
        "equiangular frame",
        choices=("learned", "etf"),
    )
    prefix_head_scale: float = key(1.0, "Length of the vectors of that frame", 1e-6, 1e6)
    sigma_id_weight: float = key(1.0, "gamma of L_NTP + gamma L_ID", 0.0, 1e6)
    sigma_mask_seen: bool | None = key(
        None,
        "Items of the history are no negatives where filter_seen holds (ours); ~ = True for joint, "
        "False for paper",
    )
    sigma_soft_targets: float | None = key(
        None,
        "Share of a target that goes to the newest item's neighbours in train (ours, joint); ~ = 0.15 where "
        "items have fewer than 30 train events on average, else 0",
        0.0,
        1.0,
    )
    sigma_rdrop: float | None = key(
        None,
        "Weight of R-Drop (joint): two passes under other dropout must agree, at most twice the time; ~ = by "
        "sigma_history",
        0.0,
        1e3,
    )


@dataclass(frozen=True)
class BeamKeys:
    """How wide the beam is."""

    decode_beam: int = key(
        0, "Beam width; for SIGMA 0 = all prefixes (exact), at inner levels at most 1,024", 0, 1 << 30
    )


@dataclass(frozen=True)
class DecodeKeys(BeamKeys):
    """Stage (d): generation, beam over prefixes and fusion with the item scores."""

    decode_mode: str | None = key(
        None,
        "How prefix and item scores are fused; apf is the paper's adaptive fusion; ~ = fixed_temp for joint, "
        "apf for paper",
        choices=("fixed_temp", "apf", "top1_prefix"),
    )


@dataclass(frozen=True)
class TigerKeys:
    """TIGER's network and rows."""

    tiger_layers: int = key(4, "Encoder layers", 1, 1_000)
    tiger_decoder_layers: int = key(4, "Decoder layers", 1, 1_000)
    tiger_d_model: int = key(128, "Width of the states", 1, 1 << 20)
    tiger_heads: int = key(6, "Attention heads", 1, 1_000)
    tiger_d_kv: int = key(64, "Width of a head", 1, 1 << 20)
    tiger_d_ff: int = key(1024, "Width of the feed-forward layers", 1, 1 << 20)
    tiger_dropout: float = key(0.1, "Dropout everywhere")
    tiger_user_tokens: int = key(0, "Hashed user tokens; 0 = none (the paper has 2,000)")
    tiger_samples: str = key(
        "one", "Training rows: all prefixes, or one random prefix per user and epoch", choices=("one", "all")
    )
    tokenizer_codes_numbering: str | None = key(
        None, "For a file that numbers its items: its item2id table, its item.json, or: same"
    )


@dataclass(frozen=True)
class RqVaeKeys:
    """TIGER's residual-quantized autoencoder."""

    rqvae_latent: int = key(32, "Width of its quantized latent")
    rqvae_hidden: tuple[int, ...] = key((512, 256, 128), "Hidden widths of its encoder")
    rqvae_epochs: int = key(200, "Passes over the items")
    rqvae_batch: int = key(1024, "Items per step")
    rqvae_learning_rate: float = key(0.001, "Step size of AdamW")
    rqvae_weight_decay: float = key(0.0, "Weight decay on its matrices")
