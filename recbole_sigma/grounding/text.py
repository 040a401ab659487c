"""Item text to vectors, by encoder name. Row 0 (padding) and items without text are zero rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from recbole_sigma.grounding.cooccurrence import unit_rows
from recbole_sigma.pretrained import quiet
from recbole_sigma.values import UserError

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
        components[:, :rank] = TruncatedSVD(rank, n_iter=7, random_state=seed).fit(matrix).components_.T
    count = np.zeros(len(texts) + 1, dtype=np.int64)
    count[np.asarray(filled) + 1] = np.diff(matrix.indptr)
    terms = sp.csr_matrix(
        (matrix.data.astype(np.float32), matrix.indices, count.cumsum()), shape=(len(texts), width)
    )
    return TermText(terms, components)


def tfidf_svd(texts: Sequence[str], dim: int, seed: int) -> np.ndarray:
    """The vectors of `tfidf_terms`: float32 [len(texts), dim], unit rows, zero rows for empty texts."""
    return tfidf_terms(texts, dim, seed).vectors()


def filled_texts(texts: Sequence[str]) -> list[int]:
    """Rows that have a text, without the padding row 0.

    Raises:
        UserError: there is none.
    """
    filled = [i for i, text in enumerate(texts) if i > 0 and text.strip()]
    if not filled:
        raise UserError(
            "no item has any text: check `text_fields` in the property file against the header of the .item"
            " file"
        )
    return filled


def sentence_transformer(
    texts: Sequence[str], name: str, device: str = "cpu", show_progress: bool = True
) -> np.ndarray:
    """Encode texts with a frozen sentence-transformers model; needs that package.

    Args:
        texts: one per item, row 0 padding.
        name: name or folder.
        device: where the model runs.
        show_progress: show its bar.

    Returns:
        float32 [len(texts), d] with the model's own width d; unit rows, zero rows for empty texts.

    Raises:
        UserError: the package is missing or the model cannot be loaded.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise UserError(
            "grounding_text_encoder names a sentence-transformers model but that package is missing: "
            "pip install sentence-transformers, or use grounding_text_encoder=tfidf-svd"
        ) from error
    try:
        with quiet():
            model = SentenceTransformer(name, device=device)
    except Exception as error:
        raise UserError(
            f"grounding_text_encoder: the sentence encoder '{name}' cannot be loaded"
            f" ({type(error).__name__}): give a folder that sentence-transformers saved, or check the name"
            " and the network"
        ) from error
    filled = filled_texts(texts)
    encoded = model.encode(
        [texts[i] for i in filled], normalize_embeddings=True, show_progress_bar=show_progress
    )
    vectors = np.zeros((len(texts), encoded.shape[1]))
    vectors[np.asarray(filled)] = encoded
    return unit_rows(vectors)


ENCODERS = ("tfidf-svd", "sentence-transformers", "causal-lm")


def encoder_kind(encoder: str) -> tuple[str, str]:
    """Kind and model name out of ``grounding_text_encoder``.

    Raises:
        UserError: an unknown kind, or a kind that needs a name without one.
    """
    kind, _, name = encoder.partition(":")
    if kind not in ENCODERS or (kind != "tfidf-svd") != bool(name):
        raise UserError(
            f"grounding_text_encoder: '{encoder}' is unknown; use tfidf-svd, sentence-transformers:<name or "
            "folder> or causal-lm:<name or folder>"
        )
    return kind, name


def encode_texts(texts: Sequence[str], encoder: str, dim: int, seed: int) -> np.ndarray:
    """Raw text vectors by the encoder's name, see `encoder_kind`; unit rows, zero rows for empty texts.

    Args:
        texts: one per item, row 0 padding.
        encoder: value of ``grounding_text_encoder``.
        dim: width of ``tfidf-svd``; the other encoders have their own.
        seed: of the randomised SVD.
    """
    kind, name = encoder_kind(encoder)
    if kind == "tfidf-svd":
        return tfidf_svd(texts, dim, seed)
    if kind == "sentence-transformers":
        return sentence_transformer(texts, name)
    from recbole_sigma.grounding.causal import causal_text_vectors

    return causal_text_vectors(texts, name)
