"""Grounding losses and the trained projection: text vectors learn what users do (PAPER section 'multi-view
grounding').
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_sigma.grounding.views import PairView


@dataclass(frozen=True)
class AlignmentOptions:
    """Options of the grounding projection.

    Attributes:
        dim: width of the grounded text vectors.
        hidden: width of the projection's hidden layer.
        tau: temperature of both softmaxes.
        kd_weight: lambda of L = L_CL + lambda L_KD; 0 switches distillation off.
        steps: optimiser steps.
        batch_pairs: B, pairs per step (2B items).
        learning_rate: AdamW step size.
        dropout: dropout on the hidden layer and on the input.
        seed: seed of initialisation, dropout and pair sampling.
    """

    dim: int = 64
    hidden: int = 256
    tau: float = 0.05
    kd_weight: float = 1.0
    steps: int = 400
    batch_pairs: int = 128
    learning_rate: float = 2e-3
    dropout: float = 0.2
    seed: int = 0


class TextProjection(nn.Module):
    """Down-projection of text vectors to the grounded space; unit rows out ([n, d_in] -> [n, dim])."""

    def __init__(self, d_in: int, hidden: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(d_in, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, dim),
        )
        self.skip = nn.Linear(d_in, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.net(x) + self.skip(x), dim=-1)


def similarity_logits(vectors: Tensor, items: Tensor, partner: Tensor, tau: float) -> Tensor:
    """In-batch similarity logits of 2B items.

    The diagonal is excluded as in the paper. Copies of the same item elsewhere in the batch are excluded as
    well (ours): they are neither negatives nor the partner.

    Args:
        vectors: [2B, d] unit rows.
        items: int64 [2B] item ids.
        partner: int64 [2B] row of each row's relevant partner.
        tau: temperature.

    Returns:
        [2B, 2B] logits, -inf where a row may not be compared.
    """
    logits = vectors @ vectors.T / tau
    blocked = items[:, None] == items[None, :]
    row = torch.arange(len(items), device=items.device)
    partner_item = items[partner]
    blocked |= items[None, :] == partner_item[:, None]
    blocked[row, partner] = False
    blocked[row, row] = True
    return logits.masked_fill(blocked, float("-inf"))


def contrastive_loss(logits: Tensor, partner: Tensor) -> Tensor:
    """L_CL = -(1/2B) sum_i log P_text(partner(i) | i), from ``similarity_logits`` [2B, 2B]."""
    return F.cross_entropy(logits, partner)


def distillation_loss(text_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """L_KD = (1/2B) sum_i KL(P_ID(.|i) || P_text(.|i)); both [2B, 2B] with the same -inf pattern."""
    log_text = text_logits.log_softmax(dim=-1)
    log_teacher = teacher_logits.log_softmax(dim=-1)
    term = log_teacher.exp() * (log_teacher - log_text)
    return torch.where(torch.isfinite(term), term, torch.zeros_like(term)).sum(dim=-1).mean()


def align_text(
    text: np.ndarray,
    teacher: np.ndarray,
    views: Sequence[PairView],
    options: AlignmentOptions,
    on_step: Callable[[], None] | None = None,
) -> tuple[np.ndarray, list[dict[str, float]]]:
    """Train the projection on relevance pairs and project every item.

    Args:
        text: float32 [N, d_t] frozen text vectors (row 0 padding).
        teacher: float32 [N, d_c] frozen collaborative vectors; zero rows are unknown to the teacher.
        views: relevance pairs; each step draws the batch evenly from the non-empty views.
        options: see ``AlignmentOptions``.
        on_step: called after every optimiser step.

    Returns:
        (float32 [N, dim] unit rows with zero rows where the text is zero, log of losses every 10th of the
        run).
    """
    active = [view for view in views if len(view) > 0]
    generator_state = torch.random.get_rng_state()
    torch.manual_seed(options.seed)
    try:
        source = torch.from_numpy(np.asarray(text, dtype=np.float32))
        taught = torch.from_numpy(np.asarray(teacher, dtype=np.float32))
        model = TextProjection(source.shape[1], options.hidden, options.dim, options.dropout)
        log: list[dict[str, float]] = []
        if active:
            rng = np.random.default_rng(options.seed)
            optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, weight_decay=1e-2)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps)
            for step in range(options.steps):
                items = _draw_batch(active, options.batch_pairs, rng)
                half = len(items) // 2
                partner = torch.arange(len(items)).roll(half)
                logits = similarity_logits(model(source[items]), items, partner, options.tau)
                loss_cl = contrastive_loss(logits, partner)
                loss_kd = torch.zeros(())
                if options.kd_weight > 0:
                    teacher_logits = similarity_logits(taught[items], items, partner, options.tau)
                    known = taught[items].abs().sum(dim=1) > 0
                    loss_kd = distillation_loss(logits[known], teacher_logits[known])
                optimizer.zero_grad()
                (loss_cl + options.kd_weight * loss_kd).backward()
                optimizer.step()
                schedule.step()
                if on_step is not None:
                    on_step()
                if step % max(1, options.steps // 10) == 0 or step == options.steps - 1:
                    log.append({"step": step, "loss_cl": loss_cl.item(), "loss_kd": loss_kd.item()})
        model.eval()
        with torch.no_grad():
            grounded = model(source)
        grounded[source.abs().sum(dim=1) == 0] = 0.0
        return grounded.numpy().astype(np.float32), log
    finally:
        torch.random.set_rng_state(generator_state)


def _draw_batch(views: Sequence[PairView], pairs: int, rng: np.random.Generator) -> Tensor:
    """Item ids [2B]: the first half's partner of row i is row i + B."""
    share = [pairs // len(views) + (1 if i < pairs % len(views) else 0) for i in range(len(views))]
    drawn = [view.sample(size, rng) for view, size in zip(views, share, strict=True) if size > 0]
    left = np.concatenate([pair[0] for pair in drawn])
    right = np.concatenate([pair[1] for pair in drawn])
    return torch.from_numpy(np.concatenate([left, right]))
