"""One continuous token per item: frozen vectors, trained projections, a small fusion MLP (paper: 'Proj &
Fuse').
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

RESIDUAL_STD = (
    0.3  # against unit variance per modality: small enough to start from content, large enough to move slowly
)


class ItemFusion(nn.Module):
    """Fuse(W_id v_id; W_txt v_txt; W_img v_img) for every item of the catalogue.

    The frozen inputs are buffers. Each modality is projected and layer-normalised; an item that lacks a
    modality gets that modality's learned 'absent' vector. A trained per-item residual is added; the paper's
    fused vectors come from frozen inputs alone, so the residual is ours (``id_residual=False`` removes it).

    Args:
        modalities: name -> float32 [N, d_m] frozen vectors; zero rows mean 'absent'.
        d_model: width of the fused token.
        hidden: width of the MLP's hidden layer; 0 sums the projections instead (no MLP).
        dropout: dropout on the fused vectors, in training only.
        id_residual: add a trained vector per item.
    """

    def __init__(
        self,
        modalities: dict[str, Tensor],
        d_model: int,
        hidden: int,
        dropout: float,
        id_residual: bool = True,
    ) -> None:
        super().__init__()
        if not modalities and not id_residual:
            raise ValueError("an item token needs at least one modality or the id residual")
        self.names = tuple(modalities)
        self.projections = nn.ModuleDict()
        self.absent = nn.ParameterDict()
        n_items = 0
        for name, vectors in modalities.items():
            n_items = vectors.shape[0]
            self.register_buffer(f"frozen_{name}", vectors.float(), persistent=False)
            self.projections[name] = nn.Sequential(
                nn.Linear(vectors.shape[1], d_model), nn.LayerNorm(d_model)
            )
            self.absent[name] = nn.Parameter(torch.randn(d_model) * 0.02)
        self.mlp = (
            nn.Sequential(nn.Linear(len(self.names) * d_model, hidden), nn.SiLU(), nn.Linear(hidden, d_model))
            if hidden and self.names
            else None
        )
        self.residual = nn.Embedding(n_items, d_model) if id_residual else None
        if self.residual is not None:
            nn.init.normal_(self.residual.weight, std=RESIDUAL_STD)
        self.dropout = nn.Dropout(dropout)

    def forward(self, items: Tensor | None = None) -> Tensor:
        """Fused tokens.

        Args:
            items: int64 ids of any shape, or None for the whole catalogue.

        Returns:
            float [*items.shape, d_model], or [N, d_model].
        """
        parts = []
        for name in self.names:
            frozen = getattr(self, f"frozen_{name}")
            vectors = frozen if items is None else frozen[items]
            missing = vectors.abs().sum(dim=-1, keepdim=True) == 0
            parts.append(torch.where(missing, self.absent[name], self.projections[name](vectors)))
        if self.mlp is not None:
            parts = [self.mlp(torch.cat(parts, dim=-1))]
        if self.residual is not None:
            parts.append(self.residual.weight if items is None else self.residual(items))
        return self.dropout(torch.stack(parts).sum(dim=0))
