"""Grounding losses and their training: text vectors learn what users do (arXiv 2602.22913,
multi-view semantic grounding).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_sigma.grounding.tower import Tower
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
        learning_rate: step size of the projection and of word vectors.
        encoder_rate: step size of a language model's weights.
        dropout: dropout on the hidden layer and on the input.
        chunk: items encoded at a time, see `cached_backward`; 0 = the whole batch.
        seed: seed of initialisation, dropout and pair sampling.
    """

    dim: int = 64
    hidden: int = 512
    tau: float = 0.05
    kd_weight: float = 1.0
    steps: int = 500
    batch_pairs: int = 256
    learning_rate: float = 2e-3
    encoder_rate: float = 1e-4
    dropout: float = 0.3
    chunk: int = 0
    seed: int = 0


def not_compared(items: Tensor, partner: Tensor) -> Tensor:
    """Which of 2B items a row's softmax leaves out: bool [2B, 2B].

    The diagonal is excluded as in the paper. Copies of the same item elsewhere in the batch are excluded as
    well (ours): they are neither negatives nor the partner.

    Args:
        items: int64 [2B] item ids.
        partner: int64 [2B] row of each row's relevant partner.
    """
    blocked = items[:, None] == items[None, :]
    row = torch.arange(len(items), device=items.device)
    partner_item = items[partner]
    blocked |= items[None, :] == partner_item[:, None]
    blocked[row, partner] = False
    blocked[row, row] = True
    return blocked


def log_shares(vectors: Tensor, blocked: Tensor, tau: float) -> Tensor:
    """log P(. | i) of a batch under the cosine over tau: float [2B, 2B], very low where blocked.

    Args:
        vectors: float [2B, d] unit rows.
        blocked: of `not_compared`.
        tau: temperature.
    """
    # no infinity: its product with a share of 0 would be no number
    return (vectors @ vectors.T / tau).masked_fill(blocked, -1e9).log_softmax(dim=-1)


def contrastive_loss(log_text: Tensor, partner: Tensor) -> Tensor:
    """L_CL = -(1/2B) sum_i log P_text(partner(i) | i), from `log_shares`."""
    return F.nll_loss(log_text, partner)


def distillation_loss(log_text: Tensor, log_teacher: Tensor, known: Tensor) -> Tensor:
    """L_KD = sum_i KL(P_ID(.|i) || P_text(.|i)) over the rows that the teacher knows, their mean.

    Args:
        log_text: float [2B, 2B] of `log_shares`.
        log_teacher: the same of the teacher's vectors.
        known: bool [2B].
    """
    divergence = (log_teacher.exp() * (log_teacher - log_text)).sum(dim=-1)
    return (divergence * known).sum() / known.sum().clamp_min(1)


def align(
    tower: Tower,
    teacher: np.ndarray,
    views: Sequence[PairView],
    options: AlignmentOptions,
    on_step: Callable[[], None] | None = None,
) -> list[dict[str, float]]:
    """Train an item encoder on relevance pairs under L = L_CL + lambda L_KD.

    Args:
        tower: the encoder, trained in place.
        teacher: float32 [N, d_c] frozen collaborative vectors; zero rows are unknown to the teacher.
        views: relevance pairs; each step draws from the non-empty views, see `view_shares`.
        options: see ``AlignmentOptions``.
        on_step: called after every optimiser step.

    Returns:
        Losses of every 10th of the run; empty when no view has a pair, and then nothing was trained.
    """
    active = [view for view in views if len(view) > 0]
    log: list[dict[str, float]] = []
    if not active:
        return log
    device = tower.device
    rng = np.random.default_rng(options.seed)
    optimizers = _optimizers(tower, options)
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(each, options.steps) for each in optimizers]
    tower.train()
    for step in range(options.steps):
        items = _draw_batch(active, options.batch_pairs, rng)
        taught = torch.from_numpy(np.asarray(teacher[items.numpy()], dtype=np.float32)).to(device)
        partner = torch.arange(len(items), device=device).roll(len(items) // 2)
        batch = BatchLoss(items.to(device), partner, taught, options)
        for optimizer in optimizers:
            optimizer.zero_grad()
        cached_backward(tower, items, batch, options.chunk)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        if on_step is not None:
            on_step()
        if step % max(1, options.steps // 10) == 0 or step == options.steps - 1:
            log.append({"step": step, "loss_cl": float(batch.contrastive), "loss_kd": float(batch.distilled)})
    return log


class BatchLoss:
    """L_CL + lambda L_KD of one batch as a function of its vectors [2B, d]; keeps both parts for the log."""

    def __init__(self, items: Tensor, partner: Tensor, taught: Tensor, options: AlignmentOptions) -> None:
        self.items, self.partner, self.taught, self.options = items, partner, taught, options
        self.contrastive = self.distilled = torch.zeros(())

    def __call__(self, vectors: Tensor) -> Tensor:
        tau, weight = self.options.tau, self.options.kd_weight
        blocked = not_compared(self.items, self.partner)
        log_text = log_shares(vectors, blocked, tau)
        loss = contrastive_loss(log_text, self.partner)
        self.contrastive = loss.detach()
        if weight > 0:
            known = self.taught.abs().sum(dim=1) > 0
            distilled = distillation_loss(log_text, log_shares(self.taught, blocked, tau), known)
            self.distilled = distilled.detach()
            loss = loss + weight * distilled
        return loss


def cached_backward(
    tower: nn.Module, items: Tensor, loss_of: Callable[[Tensor], Tensor], chunk: int
) -> Tensor:
    """Gradients of a loss over the vectors of a whole batch, holding the activations of ``chunk`` items only.

    The batch is encoded twice: without gradients to get the loss and its gradient at the vectors, then chunk
    by chunk to carry that on into the encoder (gradient caching, arXiv 2101.06983). Dropout draws the same
    masks both times, so the result is that of one large pass.

    Args:
        tower: ids -> vectors.
        items: int64 [n].
        loss_of: vectors [n, d] -> scalar.
        chunk: items per pass; 0 or at least n = one pass.

    Returns:
        The loss, without gradient; gradients are added to the parameters.
    """
    if not chunk or chunk >= len(items):
        loss = loss_of(tower(items))
        loss.backward()
        return loss.detach()
    pieces = items.split(chunk)
    states, vectors = [], []
    with torch.no_grad():
        for piece in pieces:
            states.append(_random_state())
            vectors.append(tower(piece))
    whole = torch.cat(vectors).requires_grad_()
    loss = loss_of(whole)
    loss.backward()
    assert whole.grad is not None
    after = _random_state()
    for piece, state, gradient in zip(pieces, states, whole.grad.split(chunk), strict=True):
        _set_random_state(state)
        tower(piece).backward(gradient)
    _set_random_state(after)
    return loss.detach()


def _random_state() -> tuple[Tensor, list[Tensor]]:
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []


def _set_random_state(state: tuple[Tensor, list[Tensor]]) -> None:
    torch.set_rng_state(state[0])
    if state[1]:
        torch.cuda.set_rng_state_all(state[1])


def _optimizers(tower: Tower, options: AlignmentOptions) -> list[torch.optim.Optimizer]:
    """AdamW for dense parameters, with a step size of its own for the text encoder, SparseAdam for words."""
    sparse, encoder = tower.sparse_parameters(), tower.encoder_parameters()
    apart = {id(parameter) for parameter in (*sparse, *encoder)}
    head = [p for p in tower.parameters() if p.requires_grad and id(p) not in apart]
    groups = [
        {"params": head, "lr": options.learning_rate},
        {"params": encoder, "lr": options.encoder_rate},
    ]
    dense = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=options.learning_rate,
        weight_decay=1e-2,
        fused=True,
    )
    found: list[torch.optim.Optimizer] = [dense]
    if sparse:
        found.append(torch.optim.SparseAdam(sparse, lr=options.learning_rate))
    return found


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from ``seed`` inside, leave torch's generators as they were."""
    state = _random_state()
    torch.manual_seed(seed)
    try:
        yield
    finally:
        _set_random_state(state)


def view_shares(views: Sequence[PairView]) -> list[float]:
    """Share of a batch that each view draws: behaviour half of it, the other views the rest, evenly.

    What users do is what the text has to learn; metadata pairs are many and easy, and with even shares they
    cost a third of the gain (docs/language_models.md).
    """
    others = sum(view.name != "collaborative" for view in views)
    if not others or others == len(views):
        return [1.0 / len(views)] * len(views)
    return [0.5 if view.name == "collaborative" else 0.5 / others for view in views]


def _draw_batch(views: Sequence[PairView], pairs: int, rng: np.random.Generator) -> Tensor:
    """Item ids [2B]: the first half's partner of row i is row i + B."""
    edge = np.rint(np.cumsum([0.0, *view_shares(views)]) * pairs).astype(int)
    drawn = [view.sample(size, rng) for view, size in zip(views, np.diff(edge), strict=True) if size > 0]
    left = np.concatenate([pair[0] for pair in drawn])
    right = np.concatenate([pair[1] for pair in drawn])
    return torch.from_numpy(np.concatenate([left, right]))
