"""Second readers of sentences that the rules cannot read: a sentence encoder, or a local instruction model.

Both choose among the tasks without a slot, which need no value of the data; what a sentence names is found by
the rules alone. A sentence that is near no task stays unread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from recbole_sigma.language.loading import encode_as_text, load_causal_model, load_tokenizer, quiet
from recbole_sigma.values import UserError

EXAMPLES = {
    "JustForYou": ("what should I take next", "recommend something for me", "pick one for me"),
    "Longtail": ("a hidden gem", "something that hardly anybody knows", "an obscure, little known one"),
    "Discover": (
        "surprise me with something different",
        "a kind I have never tried",
        "out of my comfort zone",
    ),
}
"""What people say for each task; the encoder compares sentences with these."""
NEAR = 0.5  # cosine below which a sentence is near nothing
OTHER = "something else entirely"
"""What the instruction model may answer beside the tasks."""


LONGEST = 128  # tokens of a sentence that the encoder reads


class MeanEncoder:
    """Sentence vectors: the mean of an encoder's last states, as most sentence encoders pool them.

    Args:
        folder: a transformers model, such as sentence-transformers saves.

    Raises:
        UserError: no such model.
    """

    def __init__(self, folder: str) -> None:
        from transformers import AutoModel

        self.tokenizer = load_tokenizer(folder, "reader")
        try:
            with quiet():
                self.model = AutoModel.from_pretrained(folder, trust_remote_code=False).eval()
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"reader: '{folder}' holds no sentence encoder ({type(error).__name__}): give a folder that "
                "transformers or sentence-transformers saved"
            ) from error

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """float64 [n, d]."""
        found = []
        for encoding in self.tokenizer.encode_batch(list(texts)):
            ids = torch.tensor([encoding.ids[:LONGEST] or [0]])
            found.append(self.model(input_ids=ids).last_hidden_state[0].double().mean(dim=0).numpy())
        return np.stack(found)


class NearestExample:
    """The task whose examples a sentence is nearest to, by the cosine of sentence vectors.

    Args:
        encode: texts -> vectors float [n, d].
    """

    def __init__(self, encode: Callable[[Sequence[str]], np.ndarray]) -> None:
        self.encode = encode
        self.owners = [task for task, texts in EXAMPLES.items() for _ in texts]
        self.table = _unit(encode([text for texts in EXAMPLES.values() for text in texts]))

    def __call__(self, sentence: str, tasks: Sequence[str]) -> str | None:
        """See `reader.Paraphrase`."""
        likeness = self.table @ _unit(self.encode([sentence]))[0]
        known = np.array([owner in tasks for owner in self.owners])
        likeness = np.where(known, likeness, -1.0)
        best = int(likeness.argmax())
        return self.owners[best] if likeness[best] >= NEAR else None


class InstructionModel:
    """The task that a causal language model finds the most probable answer; nothing is generated freely.

    Args:
        folder: of the model.
    """

    def __init__(self, folder: str) -> None:
        self.tokenizer = load_tokenizer(folder, "reader")
        self.model = load_causal_model(folder, "reader").eval()

    def __call__(self, sentence: str, tasks: Sequence[str]) -> str | None:
        """See `reader.Paraphrase`."""
        answers = {task: EXAMPLES[task][0] for task in tasks if task in EXAMPLES}
        scores = {task: self.score(sentence, answer) for task, answer in answers.items()}
        best = max(scores, key=lambda task: scores[task], default=None)
        return best if best is not None and scores[best] > self.score(sentence, OTHER) else None

    @torch.inference_mode()
    def score(self, sentence: str, answer: str) -> float:
        """Mean log-probability of an answer's tokens behind the sentence."""
        prompt = f"A person says: {sentence}\nIn other words, the person asks for: "
        before, own = (encoding.ids for encoding in encode_as_text(self.tokenizer, [prompt, answer]))
        ids = torch.tensor([[*before, *own]])
        log_probs = self.model(input_ids=ids).logits[0, len(before) - 1 : -1].float().log_softmax(dim=-1)
        return float(log_probs.gather(1, torch.tensor(own)[:, None]).mean())


def paraphrase_of(reader: str) -> NearestExample | InstructionModel:
    """A second reader by its name: ``encoder:FOLDER`` or ``model:FOLDER``.

    Raises:
        UserError: another name, or a folder that holds no such model.
    """
    kind, _, folder = reader.partition(":")
    if kind == "encoder" and folder:
        return NearestExample(MeanEncoder(folder))
    if kind == "model" and folder:
        return InstructionModel(folder)
    raise UserError(f"--reader: give encoder:FOLDER or model:FOLDER, not {reader[:80]!r}")


def _unit(vectors: np.ndarray) -> np.ndarray:
    rows = np.asarray(vectors, dtype=np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
