"""A causal language model as item encoder: last token, down-projection, LoRA (arXiv 2602.22913, fig. 1a)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_sigma.grounding.tower import Tower, filled_texts
from recbole_sigma.language.loading import encode_as_text, load_causal_model, load_tokenizer, setting
from recbole_sigma.language.lora import LoraOptions, add_lora
from recbole_sigma.values import UserError

KEY = "grounding_text_encoder"


class TokenRows:
    """Token ids of all items, one flat array and where each item begins.

    Attributes:
        ids: int32 [total].
        begin: int64 [N + 1].
    """

    def __init__(self, rows: Sequence[Sequence[int]]) -> None:
        self.begin = np.cumsum([0, *(len(row) for row in rows)])
        self.ids = np.fromiter((token for row in rows for token in row), np.int32, int(self.begin[-1]))

    def __len__(self) -> int:
        return len(self.begin) - 1

    @property
    def lengths(self) -> np.ndarray:
        """int64 [N]."""
        return np.diff(self.begin)

    def padded(self, items: np.ndarray) -> tuple[Tensor, Tensor]:
        """(ids int64 [B, T] right-padded with 0, lengths int64 [B])."""
        lengths = self.lengths[items]
        column = np.arange(max(int(lengths.max(initial=1)), 1))
        inside = column[None] < lengths[:, None]
        index = np.where(inside, self.begin[items][:, None] + column[None], 0)
        ids = (
            np.where(inside, self.ids[index], 0) if len(self.ids) else np.zeros(inside.shape, dtype=np.int64)
        )
        return torch.from_numpy(ids.astype(np.int64)), torch.from_numpy(lengths.astype(np.int64))


def tokenize(texts: Sequence[str], name: str, max_tokens: int, end: int | None) -> TokenRows:
    """Token ids of item texts, each cut to ``max_tokens`` with the end token (where there is one) last.

    Args:
        texts: one per item, row 0 padding; empty texts get no token.
        name: model folder or name.
        max_tokens: longest row.
        end: id of the model's end-of-text token; None = the tokenizer has none, the last word is pooled.
    """
    tokenizer = load_tokenizer(name, KEY)
    filled = filled_texts(texts)
    rows: list[list[int]] = [[] for _ in texts]
    tail = [] if end is None else [end]
    for begin in range(0, len(filled), 10_000):
        some = filled[begin : begin + 10_000]
        for item, encoded in zip(
            some,
            encode_as_text(tokenizer, [texts[i] for i in some]),
            strict=True,
        ):
            rows[item] = [*encoded.ids[: max_tokens - len(tail)], *tail]
    return TokenRows(rows)


class CausalTower(Tower):
    """Last-token state of a language model, projected and normalised.

    Args:
        texts: one per item, row 0 padding.
        name: model folder or name.
        dim: width of the grounded space; 0 = no projection, the state itself (raw vectors).
        lora: adapters; rank 0 trains every weight. None freezes the model.
        max_tokens: longest text.
        device: where it runs.
        half: bf16 autocast (accelerators only).

    Raises:
        UserError: the model cannot be loaded or is no causal language model.
    """

    def __init__(
        self,
        texts: Sequence[str],
        name: str,
        dim: int,
        lora: LoraOptions | None,
        max_tokens: int,
        device: str = "cpu",
        half: bool = False,
    ) -> None:
        super().__init__()
        self.n_items = len(texts)
        self.model = load_causal_model(name, KEY)
        limit = setting(self.model.config, "max_position_embeddings") or max_tokens
        end = self.model.config.eos_token_id
        end = end[0] if isinstance(end, list) else end
        size = self.model.get_input_embeddings().weight.shape[0]
        self.rows = tokenize(texts, name, min(max_tokens, limit), end)
        if len(self.rows.ids) and int(self.rows.ids.max()) >= size:
            raise UserError(
                f"{KEY}: the tokenizer of '{name}' gives id {int(self.rows.ids.max())} but the model has"
                f" {size} embeddings: tokenizer and weights belong to different models"
            )
        if lora is None:
            self.model.requires_grad_(False)
        else:
            add_lora(self.model, lora, "lora")
        width = self.model.get_input_embeddings().weight.shape[1]
        self.projection = nn.Linear(width, dim, bias=False) if dim else nn.Identity()
        self.half = half
        self.to(device)

    def known(self) -> np.ndarray:
        return self.rows.lengths > 0

    def encoder_parameters(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    @property
    def device(self) -> torch.device:
        return self.model.get_input_embeddings().weight.device

    def forward(self, items: Tensor) -> Tensor:
        ids, lengths = (part.to(self.device) for part in self.rows.padded(items.cpu().numpy()))
        mask = torch.arange(ids.shape[1], device=self.device) < lengths[:, None]
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.half):
            states = self.model.base_model(
                input_ids=ids, attention_mask=mask.long(), use_cache=False
            ).last_hidden_state
            last = states[torch.arange(len(ids), device=self.device), (lengths - 1).clamp(min=0)]
            out = self.projection(last)
        return F.normalize(out.float(), dim=-1)

    def blocks(self, size: int = 64) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All vectors, block by block in order of text length (little padding): (rows, float32 [b, d])."""
        known = np.flatnonzero(self.known())
        known = known[np.argsort(self.rows.lengths[known], kind="stable")]
        training = self.training
        self.eval()
        for begin in range(0, len(known), size):
            some = known[begin : begin + size]
            with torch.no_grad():
                yield some, self(torch.from_numpy(some)).cpu().numpy()
        self.train(training)

    def vectors(self, chunk: int = 64) -> np.ndarray:
        out: np.ndarray | None = None
        for rows, vectors in self.blocks(chunk):
            if out is None:
                out = np.zeros((self.n_items, vectors.shape[1]), dtype=np.float32)
            out[rows] = vectors
        assert out is not None  # `filled_texts` refused a catalogue without text
        return out


def causal_text_vectors(texts: Sequence[str], name: str, max_tokens: int = 64) -> np.ndarray:
    """Raw vectors: last-token states of the model as it is; float32 [N, d], unit rows."""
    return CausalTower(texts, name, 0, None, max_tokens).vectors()
