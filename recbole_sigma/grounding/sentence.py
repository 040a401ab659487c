"""Text vectors from a sentence encoder (the package sentence-transformers)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from recbole_sigma.grounding.cooccurrence import unit_rows
from recbole_sigma.grounding.tower import filled_texts
from recbole_sigma.language.loading import quiet
from recbole_sigma.machine.files import checked_json, reading
from recbole_sigma.values import UserError


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
    refuse_foreign_modules(name)
    try:
        with quiet():
            model = SentenceTransformer(name, device=device, trust_remote_code=False)
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


def refuse_foreign_modules(name: str) -> None:
    """Refuse a folder whose list of modules names code that is not the package's own.

    sentence-transformers imports what stands there from a folder, whatever ``trust_remote_code`` says.

    Args:
        name: folder or hub name.

    Raises:
        UserError: such a module, or a list that cannot be read.
    """
    path = Path(name).expanduser() / "modules.json"
    if not path.is_file():
        return
    with reading(path, "save the encoder again"):
        kinds = [str(module["type"]) for module in checked_json(path.read_bytes())]
    for kind in kinds:
        if not kind.startswith("sentence_transformers."):
            raise UserError(
                f"grounding_text_encoder: {path} names {kind[:80]!r}, which is code of the folder's own and "
                "is not run: use an encoder that is made of sentence_transformers' modules"
            )
