"""RQ-VAE: a residual-quantized autoencoder that turns item vectors into semantic IDs.

TIGER, arXiv 2305.05065, section 3.1: encode, quantize the latent level by level on what the levels above left
over, decode, and train reconstruction and codebooks together. Codebooks start from k-means of the first
latents, and codes that no item uses are restarted, since both halves of a collapse (unused codes, crowded
codes) show up as collisions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_sigma.tokenization.quantizers import rq_kmeans
from recbole_sigma.values import UserError


@dataclass(frozen=True)
class RQVAEOptions:
    """Options of the autoencoder; defaults follow TIGER, section 4.1, except where noted.

    Attributes:
        latent: width of the quantized latent.
        hidden: widths of the encoder's hidden layers; the decoder mirrors them.
        commitment: beta, weight of the pull of latents towards their codes.
        epochs: passes over the items (the paper trains 20,000; k-means start needs far fewer).
        batch: items per step.
        learning_rate: of AdamW (the paper uses Adagrad 0.4).
        weight_decay: of AdamW, on matrices of the autoencoder.
        seed: of initialisation, batches and restarts.
    """

    latent: int = 32
    hidden: tuple[int, ...] = (512, 256, 128)
    commitment: float = 0.25
    epochs: int = 200
    batch: int = 1024
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    seed: int = 0


class RQVAE(nn.Module):
    """The autoencoder.

    Args:
        width: width of the item vectors.
        sizes: codebook sizes (K_1, ..., K_L).
        options: see :class:`RQVAEOptions`.
    """

    def __init__(self, width: int, sizes: Sequence[int], options: RQVAEOptions) -> None:
        super().__init__()
        self.encoder = _mlp([width, *options.hidden, options.latent])
        self.decoder = _mlp([options.latent, *reversed(options.hidden), width])
        self.codebooks = nn.ParameterList(nn.Parameter(torch.randn(size, options.latent)) for size in sizes)
        self.commitment = options.commitment

    def quantize(self, latent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantize latents level by level.

        Args:
            latent: float [n, d].

        Returns:
            codes int64 [n, L], their sum float [n, d], and the quantization loss (a mean over items, summed
            over levels): codebook term plus beta times commitment term.
        """
        residual, total = latent, torch.zeros_like(latent)
        loss = latent.new_zeros(())
        codes = []
        for codebook in self.codebooks:
            code = torch.cdist(residual.detach(), codebook.detach()).argmin(dim=1)
            entry = codebook[code]
            loss = (
                loss
                + F.mse_loss(entry, residual.detach())
                + self.commitment * F.mse_loss(residual, entry.detach())
            )
            residual = residual - entry.detach()
            total = total + entry
            codes.append(code)
        return torch.stack(codes, dim=1), total, loss

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of a batch of vectors [n, width], and its codes [n, L]."""
        latent = self.encoder(vectors)
        codes, total, loss = self.quantize(latent)
        # Straight-through: the decoder sees the codes, the encoder gets the decoder's gradient.
        restored = self.decoder(latent + (total - latent).detach())
        return F.mse_loss(restored, vectors) + loss, codes

    @torch.no_grad()
    def codes_of(self, vectors: Tensor) -> Tensor:
        """Semantic IDs int64 [n, L] of vectors [n, width]."""
        return self.quantize(self.encoder(vectors))[0]

    @torch.no_grad()
    def start_codebooks(self, vectors: Tensor, seed: int) -> None:
        """Put every codebook at the k-means centroids of the residuals of the current latents."""
        latent = self.encoder(vectors).numpy()
        _, centroids = rq_kmeans(latent, [len(codebook) for codebook in self.codebooks], seed)
        for codebook, start in zip(self.codebooks, centroids, strict=True):
            codebook.copy_(torch.from_numpy(start))

    @torch.no_grad()
    def restart_dead_codes(self, vectors: Tensor, generator: torch.Generator) -> int:
        """Move every unused code onto the residual of a random item, level by level.

        Returns:
            how many codes were moved.
        """
        residual = self.encoder(vectors)
        moved = 0
        for codebook in self.codebooks:
            code = torch.cdist(residual, codebook).argmin(dim=1)
            dead = torch.bincount(code, minlength=len(codebook)).eq(0).nonzero().flatten()
            if len(dead):
                codebook[dead] = residual[torch.randint(len(residual), (len(dead),), generator=generator)]
                code = torch.cdist(residual, codebook).argmin(dim=1)
                moved += len(dead)
            residual = residual - codebook[code]
        return moved


def rq_vae(
    vectors: np.ndarray,
    sizes: Sequence[int],
    options: RQVAEOptions,
    progress: Callable[[range], Iterable[int]] | None = None,
) -> tuple[np.ndarray, dict[str, list[float]]]:
    """Train an RQ-VAE on item vectors and return their semantic IDs.

    Args:
        vectors: float [n, width], finite; z-scored per column here (as the better-documented recipes do).
        sizes: codebook sizes (K_1, ..., K_L), each at most n.
        options: see :class:`RQVAEOptions`.
        progress: wraps the range of epochs, such as a progress bar.

    Returns:
        int64 codes [n, L], and per epoch ``loss`` and ``restarted`` (dead codes moved after it).

    Raises:
        UserError: vectors that are not finite, or a codebook larger than the number of items.
    """
    array = np.asarray(vectors, dtype=np.float32)
    if not np.isfinite(array).all():
        bad = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
        raise UserError(
            f"item vectors hold NaN or infinity (first at item row {bad + 1}): rebuild them before quantizing"
        )
    if max(sizes) > len(array):
        raise UserError(
            f"tokenizer_codebook_size: a codebook of {max(sizes)} needs at least as many items, there are "
            f"{len(array)}"
        )
    scaled = torch.from_numpy((array - array.mean(axis=0)) / np.maximum(array.std(axis=0), 1e-6))
    generator = torch.Generator().manual_seed(options.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        model = RQVAE(array.shape[1], sizes, options)
    model.start_codebooks(scaled, options.seed)
    matrices = [p for p in model.parameters() if p.dim() > 1 and not _is_one_of(p, model.codebooks)]
    others = [p for p in model.parameters() if not _is_one_of(p, matrices)]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": options.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=options.learning_rate,
    )
    report: dict[str, list[float]] = {"loss": [], "restarted": []}
    epochs = range(options.epochs)
    for epoch in progress(epochs) if progress else epochs:
        total = 0.0
        for rows in torch.randperm(len(scaled), generator=generator).split(options.batch):
            loss, _ = model(scaled[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(rows)
        # Codes restarted near the end would have no time to settle, so the last tenth is left alone.
        late = epoch >= options.epochs - max(options.epochs // 10, 1)
        report["loss"].append(total / len(scaled))
        report["restarted"].append(0 if late else model.restart_dead_codes(scaled, generator))
    return model.codes_of(scaled).numpy(), report


def _mlp(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inside, outside in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.Linear(inside, outside), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _is_one_of(parameter: Tensor, group: Iterable[Tensor]) -> bool:
    return any(parameter is other for other in group)
