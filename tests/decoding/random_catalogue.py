"""A catalogue of random codes, small models over its vocabulary, and transformers' constrained search."""

from __future__ import annotations

from collections import defaultdict

import torch

from recbole_sigma.decoding.beam import beam_search
from recbole_sigma.decoding.prompts import read_prompts
from recbole_sigma.decoding.t5 import T5Decoder
from recbole_sigma.tokenization.trie import build_trie, contiguous_tokens, deduplicate
from tests.language_models import random_model

FAMILIES = ("t5", "llama", "qwen3", "gpt2")
SPECIAL = 3


def clear_model(family, vocabulary, **changes):
    """A model without special tokens whose weights are large enough that scores differ clearly."""
    if family == "t5":
        options = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": None}
    else:
        options = {"pad_token_id": 0, "eos_token_id": None, "bos_token_id": None, "initializer_range": 0.3}
    if family == "gpt2":
        options["n_positions"] = 64
    return random_model(family, vocabulary, **options, **changes)


class RandomCatalogue:
    """``items`` items with random codes of ``levels`` levels of ``size`` codes, plus a de-duplication
    level."""

    def __init__(self, items: int, size: int = 8, levels: int = 3, seed: int = 1) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        raw = torch.randint(0, size, (items + 1, levels), generator=self.generator)
        self.codes, digits = deduplicate(raw)
        self.sizes = [size] * levels + [digits]
        self.trie = build_trie(self.codes, self.sizes)
        self.dense = build_trie(self.codes, self.sizes, dense_cells=10**6)
        self.tokens = contiguous_tokens(self.sizes, SPECIAL)
        self.vocabulary = SPECIAL + sum(self.sizes)
        self.items = items
        columns = [self.tokens[level][self.codes[1:, level]] for level in range(levels + 1)]
        self.paths = torch.stack(columns, dim=1)

    def prompts(self, batch: int = 4, length: int = 12, left: bool = False):
        """Random prompts of differing length, padded to ``length``."""
        ids = torch.randint(SPECIAL, self.vocabulary, (batch, length), generator=self.generator)
        lengths = torch.randint(2, length + 1, (batch,), generator=self.generator)
        lengths[0] = length
        mask = torch.arange(length) < lengths[:, None]
        mask = mask.flip(1) if left else mask
        return ids * mask, mask.long()

    def seen(self, batch: int = 4, number: int = 40):
        rows = torch.randint(0, batch, (number,), generator=self.generator)
        return rows, torch.randint(0, self.items + 1, (number,), generator=self.generator)

    @staticmethod
    def decoder(model, ids, mask, **options):
        kind = T5Decoder if model.config.is_encoder_decoder else read_prompts
        return kind(model, ids, mask, **options)

    def search(self, model, ids, mask, k, beam, dense=False, **options):
        return beam_search(
            self.decoder(model, ids, mask),
            self.dense if dense else self.trie,
            self.tokens,
            k,
            beam,
            **options,
        )

    def generate(self, model, ids, mask, k, beam, seen=None):
        """Lists and scores of ``generate`` with a prefix function over nested dictionaries."""
        forbidden = defaultdict(set)
        if seen is not None:
            for row, item in zip(*(t.tolist() for t in seen), strict=True):
                forbidden[row].add(item)
        followers = [defaultdict(set) for _ in range(len(ids))]
        for row, table in enumerate(followers):
            for item, path in enumerate(self.paths.tolist(), start=1):
                for level in range(len(path) if item not in forbidden[row] else 0):
                    table[tuple(path[:level])].add(path[level])
        item_of = {tuple(path): item for item, path in enumerate(self.paths.tolist(), start=1)}
        start = 1
        if not model.config.is_encoder_decoder:
            start = ids.shape[1]
            order = torch.argsort(mask, dim=1, stable=True)
            ids, mask = ids.gather(1, order), mask.gather(1, order)

        def allowed(row, path):
            return sorted(followers[row].get(tuple(path.tolist()[start:]), {0}))

        out = model.generate(
            input_ids=ids, attention_mask=mask, num_beams=beam, num_return_sequences=k, do_sample=False,
            max_new_tokens=self.paths.shape[1], length_penalty=0.0, return_dict_in_generate=True,
            output_scores=True,
            prefix_allowed_tokens_fn=allowed,
        )  # fmt: skip
        items = [item_of[tuple(path)] for path in out.sequences[:, start:].tolist()]
        return torch.tensor(items).view(len(ids), k), out.sequences_scores.view(len(ids), k)

    @torch.no_grad()
    def brute_force(self, model, ids, mask):
        """Log-probability [B, N] of every item by plain forward passes of the model, one user and no cache at
        a time."""
        scores = torch.full((len(ids), self.items + 1), -torch.inf)
        for row in range(len(ids)):
            prompt = ids[row][mask[row].bool()].expand(self.items, -1)
            if model.config.is_encoder_decoder:
                start = torch.zeros(self.items, 1, dtype=torch.int64)
                given = torch.cat([start, self.paths[:, :-1]], dim=1)
                logits = model(input_ids=prompt, decoder_input_ids=given).logits
            else:
                logits = model(torch.cat([prompt, self.paths[:, :-1]], dim=1)).logits[
                    :, prompt.shape[1] - 1 :
                ]
            steps = logits.float().log_softmax(-1).gather(2, self.paths[..., None])[..., 0]
            scores[row, 1:] = steps.sum(dim=1)
        return scores
