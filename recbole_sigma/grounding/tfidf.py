"""Item text to vectors, by encoder name. Row 0 (padding) and items without text are zero rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from sklearn.feature_extraction.text import TfidfVectorizer
from torch import Tensor, nn

from recbole_sigma.grounding.cooccurrence import unit_rows
from recbole_sigma.grounding.svd import truncated_svd
from recbole_sigma.grounding.tower import TextProjection, Tower, filled_texts
from recbole_sigma.language.transformer import Dropout

MAX_TERMS = 1 << 18  # the most frequent word 1- and 2-grams are kept; bounds the memory of a large catalogue


@dataclass(frozen=True)
class TermText:
    """Item texts as weighted terms, and the linear map that turns terms into vectors.

    Attributes:
        terms: CSR float32 [N, V], TF-IDF weights; empty rows for padding and items without text.
        components: float32 [V, dim], one vector per term; item vector = unit row of ``terms @ components``.
    """

    terms: sp.csr_matrix
    components: np.ndarray

    def vectors(self) -> np.ndarray:
        """float32 [N, dim], unit rows, zero rows for empty texts."""
        return unit_rows(np.asarray(self.terms @ self.components))


def tfidf_terms(texts: Sequence[str], dim: int, seed: int) -> TermText:
    """Encode texts without any download: TF-IDF over word 1- and 2-grams, then truncated SVD.

    Args:
        texts: one string per item; index 0 is the padding item and is ignored.
        dim: width of the vectors; columns beyond the rank of the matrix are zero.
        seed: seed of the randomised SVD.

    Raises:
        UserError: no item has any text.
    """
    filled = filled_texts(texts)
    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2),
        sublinear_tf=True,
        token_pattern=r"(?u)\b\w+\b",
        strip_accents="unicode",
        min_df=1,
        max_features=MAX_TERMS,
    )
    matrix = vectorizer.fit_transform([texts[i] for i in filled]).tocsr()
    width = matrix.shape[1]
    rank = max(1, min(dim, min(matrix.shape) - 1))
    components = np.zeros((width, dim), dtype=np.float32)
    if width == 1:
        components[0, 0] = 1.0
    else:
        components[:, :rank] = truncated_svd(matrix, rank, seed)[2]
    count = np.zeros(len(texts) + 1, dtype=np.int64)
    count[np.asarray(filled) + 1] = np.diff(matrix.indptr)
    terms = sp.csr_matrix(
        (matrix.data.astype(np.float32), matrix.indices, count.cumsum()), shape=(len(texts), width)
    )
    return TermText(terms, components)


def tfidf_svd(texts: Sequence[str], dim: int, seed: int) -> np.ndarray:
    """The vectors of `tfidf_terms`: float32 [len(texts), dim], unit rows, zero rows for empty texts."""
    return tfidf_terms(texts, dim, seed).vectors()


class TermTower(Tower):
    """TF-IDF terms whose vectors are trained, then the projection.

    The vectors start at the SVD's, so that the tower starts from the raw text vectors. A projection alone can
    only mix the SVD's directions; words that tell which items go together drown in them (docs/language_models
    .md has the measurement).

    Args:
        text: terms of every item.
        hidden, dim, dropout: of `TextProjection`; terms are dropped at the same rate.
    """

    def __init__(self, text: TermText, hidden: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.terms, self.n_items, self.dropout = text.terms, text.terms.shape[0], Dropout(dropout)
        self.words = nn.EmbeddingBag.from_pretrained(
            torch.from_numpy(text.components.copy()), freeze=False, mode="sum", sparse=True
        )
        self.projection = TextProjection(text.components.shape[1], hidden, dim, dropout)

    def known(self) -> np.ndarray:
        return np.diff(self.terms.indptr) > 0

    def sparse_parameters(self) -> list[nn.Parameter]:
        return [self.words.weight]

    def forward(self, items: Tensor) -> Tensor:
        rows = self.terms[items.cpu().numpy()]
        weight = self.dropout(torch.from_numpy(rows.data).to(self.device))
        index = torch.from_numpy(rows.indices.astype(np.int64)).to(self.device)
        begin = torch.from_numpy(rows.indptr[:-1].astype(np.int64)).to(self.device)
        return self.projection(F.normalize(self.words(index, begin, per_sample_weights=weight), dim=-1))
