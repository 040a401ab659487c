"""One continuous token per item (arXiv 2602.22913, "Proj & Fuse"), and how close a state is to it."""

from __future__ import annotations

import math
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# against unit variance per modality: small enough to start from content, large enough to move slowly
RESIDUAL_STD = 0.3
PLAIN_STD = 0.02  # without the layer norm everything starts as small as a word of the backbone
TAU = 0.07  # of the cosine, where training starts


def rows_of(table: Tensor, items: Tensor) -> Tensor:
    """What a table [N, d] holds for items [...]: float [..., d].

    Empty slots (item 0) are read and have no gradient. Nothing that counts depends on them, and on an
    accelerator the many writes to one row would be the longest part of a step.
    """
    return F.embedding(items, table, padding_idx=0)


class ItemFusion(nn.Module):
    """Fuse(W_id v_id; W_txt v_txt; W_img v_img) for every item of the catalogue.

    The frozen inputs are buffers. Each modality is projected and, with ``norm``, layer-normalised; without it
    an item that frozen vectors say little about stays short, and how much each modality counts is learned
    from almost nothing upwards, which suits an inner product as the score. An item that lacks a
    modality gets that modality's learned 'absent' vector. A trained per-item residual is added; the paper's
    fused vectors come from frozen inputs alone, so the residual is ours (``id_residual=False`` removes it).

    Args:
        modalities: name -> float32 [N, d_m] frozen vectors; zero rows mean 'absent'.
        d_model: width of the fused token.
        hidden: width of the MLP's hidden layer; 0 sums the projections instead (no MLP).
        id_residual: add a trained vector per item.
        norm: layer-normalise the projections; without it, `read` normalises tokens where they are read.
        known: float [N, f], what is known of every item; None for no gate. With it (arXiv 2603.22916) the
            token is 2 (w text + (1 - w) rest), w = sigmoid(MLP([residual; known])), one half at the start.
        hide_id: share of history items whose residual a training step hides from the trunk, see `hide`.

    Attributes:
        read: what the trunk applies to the token of a history item.
    """

    def __init__(
        self,
        modalities: dict[str, Tensor],
        d_model: int,
        hidden: int,
        id_residual: bool = True,
        norm: bool = True,
        known: Tensor | None = None,
        hide_id: float = 0.0,
    ) -> None:
        super().__init__()
        self.hide_id = hide_id
        if not modalities and not id_residual:
            raise ValueError("an item token needs at least one modality or the id residual")
        self.names = tuple(modalities)
        self.projections = nn.ModuleDict()
        self.absent = nn.ParameterDict()
        n_items = 0
        for name, vectors in modalities.items():
            n_items = vectors.shape[0]
            vectors = vectors.float()
            project = nn.Linear(vectors.shape[1], d_model, bias=norm)
            if not norm:
                present = vectors.abs().sum(dim=-1) > 0
                vectors = vectors / vectors[present].square().sum(dim=-1).mean().sqrt().clamp_min(1e-12)
                nn.init.normal_(project.weight, std=PLAIN_STD)
            self.register_buffer(f"frozen_{name}", vectors, persistent=False)
            self.register_buffer(
                f"missing_{name}", (vectors == 0).all(dim=-1, keepdim=True), persistent=False
            )
            self.projections[name] = nn.Sequential(project, nn.LayerNorm(d_model)) if norm else project
            self.absent[name] = nn.Parameter(torch.randn(d_model) * 0.02)
        self.mlp = (
            nn.Sequential(nn.Linear(len(self.names) * d_model, hidden), nn.SiLU(), nn.Linear(hidden, d_model))
            if hidden and self.names
            else None
        )
        self.residual = nn.Embedding(n_items, d_model) if id_residual else None
        if self.residual is not None:
            nn.init.normal_(self.residual.weight, std=RESIDUAL_STD if norm else PLAIN_STD)
        self.gate: nn.Sequential | None = None
        if known is not None:
            self.register_buffer("known", known, persistent=False)
            self.gate = nn.Sequential(
                nn.Linear(d_model + known.shape[1], d_model), nn.ReLU(), nn.Linear(d_model, 1)
            )
            nn.init.zeros_(self.gate[2].weight)
            nn.init.zeros_(self.gate[2].bias)
        self.read = nn.Identity() if norm else nn.LayerNorm(d_model)

    def forward(self, items: Tensor | None = None) -> Tensor:
        """Fused tokens.

        Args:
            items: int64 ids of any shape, or None for the whole catalogue.

        Returns:
            float [*items.shape, d_model], or [N, d_model].
        """
        parts = []
        for name in self.names:
            vectors, missing = (self.get_buffer(f"{kind}_{name}") for kind in ("frozen", "missing"))
            if items is not None:
                vectors, missing = vectors[items], missing[items]
            parts.append(torch.where(missing, self.absent[name], self.projections[name](vectors)))
        if self.mlp is not None:
            parts = [self.mlp(torch.cat(parts, dim=-1))]
        if self.residual is not None:
            parts.append(self.residual.weight if items is None else self.residual(items))
        if self.gate is None:
            return reduce(torch.add, parts)
        text = parts.pop(self.names.index("text"))
        gate = self.gates(items)[..., None]
        return 2.0 * (gate * text + (1.0 - gate) * reduce(torch.add, parts))

    def hide(self, tokens: Tensor, items: Tensor) -> Tensor:
        """Take the residual out of some tokens of histories in training, anew at each step.

        Dropout hides some dimensions of every item, and a user of five events is still known by any of them.
        An item without its residual is what a new item is: text, and the prefix beside it.

        Args:
            tokens: float [B, T, d].
            items: int64 [B, T], whose they are.

        Returns:
            float [B, T, d].
        """
        if not self.training or not self.hide_id or self.residual is None:
            return tokens
        hidden = torch.rand(*items.shape, 1, device=tokens.device) < self.hide_id
        # a step has brought these rows up to date when it made the tokens
        own = F.embedding(items, self.residual.weight, padding_idx=0, sparse=self.residual.sparse)
        if self.gate is not None:
            own = 2.0 * (1.0 - self.gates(items)[..., None]) * own
        return tokens - hidden * own

    def gates(self, items: Tensor | None = None) -> Tensor:
        """w of items: float [*items.shape], or [N]; 1 trusts the text alone."""
        if self.gate is None or self.residual is None:
            raise ValueError("an item token without a gate")
        own, known = self.residual.weight, self.get_buffer("known")
        if items is not None:
            own, known = self.residual(items), known[items]
        return self.gate(torch.cat([own, known], dim=-1))[..., 0].sigmoid()


class Similarity(nn.Module):
    """How close a state is to an item: cosine over a learned temperature, or a scaled inner product.

    The inner product keeps the length of an item's vector, in which frequent and certain items differ from
    rare ones; on sparse data that is worth more than the even ground of the cosine (ours).

    Args:
        cosine: the paper's cosine, tau starting at `TAU`; otherwise the inner product, starting at scale 1.
    """

    def __init__(self, cosine: bool) -> None:
        super().__init__()
        self.cosine = cosine
        self.log_scale = nn.Parameter(torch.full((1,), math.log(1.0 / TAU) if cosine else 0.0))

    def items(self, tokens: Tensor) -> Tensor:
        """Item vectors [N, d] from item tokens [N, d]."""
        return F.normalize(tokens, dim=-1) if self.cosine else tokens

    def queries(self, states: Tensor, words: Tensor | None = None) -> Tensor:
        """Scaled queries from states [..., d], and what the words of an instruction add to them
        (`paths.WordPath`): their inner products with the item vectors are logits.
        """
        if self.cosine:
            states = F.normalize(states, dim=-1)
        queries = states * self.log_scale[0].exp()
        return queries if words is None else queries + words
