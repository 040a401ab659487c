"""Item text to vectors, by encoder name. Row 0 (padding) and items without text are zero rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from recbole_sigma.grounding.cooccurrence import unit_rows
from recbole_sigma.values import UserError


def tfidf_svd(texts: Sequence[str], dim: int, seed: int) -> np.ndarray:
    """Encode texts without any download: TF-IDF over word 1- and 2-grams, then truncated SVD.

    Args:
        texts: one string per item; index 0 is the padding item and is ignored.
        dim: width of the vectors; columns beyond the rank of the matrix are zero.
        seed: seed of the randomised SVD.

    Returns:
        float32 [len(texts), dim], unit rows, zero rows for empty texts.

    Raises:
        UserError: no item has any text.
    """
    filled = [i for i, text in enumerate(texts) if i > 0 and text.strip()]
    if not filled:
        raise UserError(
            "no item has any text: check `text_fields` in the property file against the header of the .item"
            " file"
        )
    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b", strip_accents="unicode", min_df=1
    )
    matrix = vectorizer.fit_transform([texts[i] for i in filled])
    rank = max(1, min(dim, min(matrix.shape) - 1))
    if matrix.shape[1] == 1:
        reduced = matrix.toarray()
    else:
        reduced = TruncatedSVD(rank, n_iter=7, random_state=seed).fit_transform(matrix)
    vectors = np.zeros((len(texts), dim))
    vectors[np.asarray(filled), : reduced.shape[1]] = reduced
    return unit_rows(vectors)


def sentence_transformer(texts: Sequence[str], name: str) -> np.ndarray:
    """Encode texts with a frozen sentence-transformers model (name or folder); needs that package.

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
        model = SentenceTransformer(name, device="cpu")
    except Exception as error:
        raise UserError(
            f"cannot load the sentence encoder '{name}' (grounding_text_encoder): {type(error).__name__}; "
            "give a local folder, or check the name and the network"
        ) from error
    filled = [i for i, text in enumerate(texts) if i > 0 and text.strip()]
    if not filled:
        raise UserError("no item has any text: check `text_fields` in the property file")
    encoded = model.encode([texts[i] for i in filled], normalize_embeddings=True, show_progress_bar=True)
    vectors = np.zeros((len(texts), encoded.shape[1]))
    vectors[np.asarray(filled)] = encoded
    return unit_rows(vectors)


def encode_texts(texts: Sequence[str], encoder: str, dim: int, seed: int) -> np.ndarray:
    """Dispatch on the encoder's name: ``tfidf-svd`` or ``sentence-transformers:<name or folder>``."""
    if encoder == "tfidf-svd":
        return tfidf_svd(texts, dim, seed)
    kind, _, name = encoder.partition(":")
    if kind == "sentence-transformers" and name:
        return sentence_transformer(texts, name)
    raise UserError(
        f"grounding_text_encoder: '{encoder}' is unknown; use tfidf-svd or sentence-transformers:<name or"
        " folder>"
    )
