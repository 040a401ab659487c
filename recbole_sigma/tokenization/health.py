"""Health of semantic IDs: is the codebook used, do items collide, is the prefix predictable and small
enough?
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class LevelHealth:
    """Usage of one level.

    Attributes:
        size: codebook size.
        used: codes that occur.
        perplexity: exp of the entropy of the code distribution (equal to ``size`` when perfectly balanced).
        largest: items that carry the most frequent code.
    """

    size: int
    used: int
    perplexity: float
    largest: int


@dataclass(frozen=True)
class CodeHealth:
    """Report on a code table.

    Attributes:
        n_items: real items.
        levels: one entry per level.
        collision_rate: share of items whose full code is shared with another item.
        prefix_length: l.
        prefixes: distinct prefixes of length l.
        prefix_entropy: entropy in nats of the item distribution over prefixes.
        largest_bucket: items under the largest prefix.
        warnings: one sentence per threshold crossed, with the remedy.
    """

    n_items: int
    levels: tuple[LevelHealth, ...]
    collision_rate: float
    prefix_length: int
    prefixes: int
    prefix_entropy: float
    largest_bucket: int
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        rows = [
            f"  level {i + 1}: {level.used}/{level.size} codes used, perplexity {level.perplexity:.1f},"
            f" largest {level.largest}"
            for i, level in enumerate(self.levels)
        ]
        head = (
            f"semantic IDs of {self.n_items} items: collision rate {self.collision_rate:.3f}, {self.prefixes}"
            f" prefixes of length {self.prefix_length}, largest bucket {self.largest_bucket}, prefix entropy"
            f" {self.prefix_entropy:.2f} nats"
        )
        return "\n".join([head, *rows, *(f"  warning: {warning}" for warning in self.warnings)])


def code_health(codes: np.ndarray, sizes: tuple[int, ...], prefix_length: int) -> CodeHealth:
    """Measure a code table.

    Args:
        codes: int [n, L] of the real items (no padding row).
        sizes: codebook sizes.
        prefix_length: l used by SIGMA, 0..L.
    """
    n = len(codes)
    levels = []
    warnings = []
    for level, size in enumerate(sizes):
        count = np.bincount(codes[:, level], minlength=size)
        share = count[count > 0] / n
        health = LevelHealth(
            size, int((count > 0).sum()), float(np.exp(-(share * np.log(share)).sum())), int(count.max())
        )
        levels.append(health)
        if health.used == 1 < min(size, n):
            remedy = ": lower tokenizer_levels" if level else ""
            warnings.append(f"level {level + 1} gives every item the same code and tells none apart{remedy}")
        elif health.used < 0.8 * min(size, n):
            warnings.append(
                f"level {level + 1} uses {health.used} of {size} codes: a smaller tokenizer_codebook_size"
                " fits this catalogue"
            )
    _, count = np.unique(codes, axis=0, return_counts=True)
    collision = float(count[count > 1].sum() / n)
    if prefix_length:
        _, bucket = np.unique(codes[:, :prefix_length], axis=0, return_counts=True)
    else:
        bucket = np.array([n])
    share = bucket / n
    mean = n / len(bucket)
    if prefix_length and bucket.max() > max(8 * mean, 64):
        warnings.append(
            f"the largest prefix holds {bucket.max()} items, {bucket.max() / mean:.1f} times the mean: raise "
            "tokenizer_codebook_size or give items more text"
        )
    return CodeHealth(
        n_items=n,
        levels=tuple(levels),
        collision_rate=collision,
        prefix_length=prefix_length,
        prefixes=len(bucket),
        prefix_entropy=float(-(share * np.log(share)).sum()),
        largest_bucket=int(bucket.max()),
        warnings=tuple(warnings),
    )


def collapse(codes: np.ndarray, vectors: np.ndarray | None) -> str | None:
    """Why all items share one code, and what to do; None where they do not.

    Args:
        codes: int [n, L] of the real items, without a de-duplication digit.
        vectors: float [n, d] that were quantized; None where the codes come from a file.
    """
    n = len(codes)
    if n < 2 or (codes != codes[0]).any():
        return None
    told = f"all {n} items share one semantic ID, which tells none of them apart"
    if vectors is None:
        return f"{told}: the file that tokenizer_quantizer names gives them no other; is it of this data set?"
    if np.ptp(vectors, axis=0).max() <= 1e-5:
        return (
            f"{told}, since their vectors (tokenizer_vectors) are all the same: let text_fields name columns "
            "of the .item file that differ between items, or quantize train events too (tokenizer_vectors: "
            "[text, collaborative])"
        )
    return (
        f"{told}, although their vectors differ: raise tokenizer_codebook_size, or choose another "
        "tokenizer_quantizer"
    )
