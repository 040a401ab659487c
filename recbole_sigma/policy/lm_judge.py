"""A judge that reads: a local causal language model answers a question per aspect with a level."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recbole_sigma.language.loading import (
    load_causal_model,
    load_tokenizer,
    setting,
    vocabulary_fingerprint,
    weights_fingerprint,
)
from recbole_sigma.machine import processes
from recbole_sigma.machine.files import DELETE, ArtifactStore, fingerprint, reading
from recbole_sigma.policy.aggregator import UserFeatures
from recbole_sigma.policy.aspects import ASPECTS, LEVELS, newest
from recbole_sigma.policy.judge import AspectJudge, judged_texts
from recbole_sigma.settings.keys import ArtifactKeys
from recbole_sigma.settings.reader import read
from recbole_sigma.values import SeenPairs, UserError

KEY = "policy_judge"
HISTORY = 10  # newest items that the model is told
PAIRS = 256  # training pairs that the weights are learned from: each costs two candidates
BATCH = 16
QUESTIONS = (
    "How well does the candidate fit what the person likes? Answer with a number from 1 (not at all) to 5 "
    "(very well).",
    "How likely is the person to want the candidate next? Answer with a number from 1 (hardly) to 3 (very).",
    "How new is the candidate to this person? Answer with a number from 1 (known ground) to 3 (new ground).",
)
PROMPT = "A person chose, the newest last: {history}.\nCandidate: {candidate}.\n{question}\nAnswer: "


class LanguageJudge(AspectJudge):
    """Levels by a language model: of the numbers that it may answer, the most probable one.

    Answers are kept on disk per prompt, in ``artifact_dir``, under a fingerprint of the model's weights.

    Args:
        folder: a causal language model that transformers saved.
        train: the train part of a packed dataset.
        config: RecBole config.
        vectors: float32 [N, d], unit rows, for the features of a user.
        seed: of the pairs that the weights are learned from.

    Raises:
        UserError: no such folder, or a tokenizer that cannot write the digits apart.
    """

    def __init__(self, folder: str, train: Any, config: Any, vectors: Tensor, seed: int) -> None:
        super().__init__(UserFeatures(train, config, vectors), None)
        if not Path(folder).is_dir():
            raise UserError(f"{KEY}: lm:{folder} is no folder: name one that holds a causal language model")
        self.texts = judged_texts(train, config)
        self.tokenizer = load_tokenizer(folder, KEY)
        self.device = config["device"]
        self.model = load_causal_model(folder, KEY).to(self.device).eval()
        self.digits = [self._digit(number) for number in range(1, 1 + max(map(len, LEVELS)))]
        if len(set(self.digits)) < len(self.digits):
            raise UserError(f"{KEY}: the tokenizer in {folder} does not tell the digits 1 to 5 apart")
        self.store = ArtifactStore(read(ArtifactKeys, config).artifact_dir)
        self.key = fingerprint(
            weights=weights_fingerprint(self.model),
            words=vocabulary_fingerprint(self.tokenizer),
            prompt=PROMPT,
            questions=list(QUESTIONS),
        )
        self.known = self._stored()
        self.asked = 0
        self.learn(train, seed, PAIRS)
        self.finish()

    def _digit(self, number: int) -> int:
        return int(self.tokenizer.encode(str(number), add_special_tokens=False).ids[-1])

    def _stored(self) -> dict[int, int]:
        """Hash of a prompt -> place of its level."""
        found = self.store.load("judge", self.key)
        if found is None:
            return {}
        with reading(self.store.path("judge", self.key), DELETE):
            prompts, places = found[0]["prompts"].tolist(), found[0]["places"].tolist()
            return dict(zip(prompts, places, strict=True))

    def finish(self) -> None:
        """Keep the answers."""
        if self.asked and processes.current().main:
            tensors = {
                "prompts": torch.tensor(list(self.known), dtype=torch.int64),
                "places": torch.tensor(list(self.known.values()), dtype=torch.int64),
            }
            self.store.save("judge", self.key, tensors, {"questions": list(QUESTIONS)})
            self.asked = 0

    def levels(self, histories: SeenPairs, items: Tensor) -> Tensor:
        """See `AspectJudge.levels`."""
        met = newest(histories, len(items), HISTORY).flip(1)
        told = ["; ".join(self.texts[item] for item in row if item) or "nothing yet" for row in met.tolist()]
        prompts = [
            PROMPT.format(history=history, candidate=self.texts[item], question=question)
            for history, row in zip(told, items.tolist(), strict=True)
            for item in row
            for question in QUESTIONS
        ]
        places = torch.tensor(self._answers(prompts)).view(*items.shape, len(ASPECTS))
        found = [torch.tensor(levels)[places[..., a]] for a, levels in enumerate(LEVELS)]
        return torch.stack(found, dim=-1)

    def _answers(self, prompts: list[str]) -> list[int]:
        """Place of the chosen level, per prompt."""
        names = [_hash(prompt) for prompt in prompts]
        options = [len(LEVELS[number % len(ASPECTS)]) for number in range(len(prompts))]
        new = {name: number for number, name in enumerate(names) if name not in self.known}
        order = sorted(new.values(), key=lambda number: len(prompts[number]))  # little padding
        for begin in range(0, len(order), BATCH):
            part = order[begin : begin + BATCH]
            logits = self._logits([prompts[number] for number in part])
            for number, row in zip(part, logits, strict=True):
                self.known[names[number]] = int(row[: options[number]].argmax())
        self.asked += len(order)
        return [self.known[name] for name in names]

    @torch.inference_mode()
    def _logits(self, prompts: list[str]) -> Tensor:
        """float [B, 5], logits of the digits behind each prompt."""
        most = setting(self.model.config, "max_position_embeddings") or 1 << 20
        ids = [self.tokenizer.encode(prompt).ids[-most:] for prompt in prompts]
        width = max(map(len, ids))
        tokens = torch.zeros(len(ids), width, dtype=torch.int64)
        mask = torch.zeros(len(ids), width, dtype=torch.int64)
        for row, own in enumerate(ids):  # padded on the right: what follows changes nothing before it
            tokens[row, : len(own)] = torch.tensor(own)
            mask[row, : len(own)] = 1
        logits = self.model(input_ids=tokens.to(self.device), attention_mask=mask.to(self.device)).logits
        last = torch.tensor([len(own) - 1 for own in ids], device=logits.device)
        return logits[torch.arange(len(ids), device=logits.device), last][:, self.digits].float().cpu()


def _hash(prompt: str) -> int:
    return int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8], "big", signed=True)
