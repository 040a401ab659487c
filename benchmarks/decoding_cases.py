"""What benchmarks/decoding.py measures: catalogues, models, and the competing ways to decode the same
users."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LogitsProcessor,
    LogitsProcessorList,
    T5Config,
    T5ForConditionalGeneration,
)

from recbole_sigma.decoding.beam import beam_search
from recbole_sigma.decoding.inside_prefix import by_column, search_in_prefixes
from recbole_sigma.decoding.prompts import read_prompts
from recbole_sigma.decoding.t5 import T5Decoder
from recbole_sigma.tokenization.catalogue import group_by_prefix
from recbole_sigma.tokenization.trie import Trie, build_trie, contiguous_tokens, deduplicate

SPECIAL = 3
PROMPT = 80
CODEBOOK = 256


def cpu_seconds(function: Callable[[], Any]) -> float:
    """What a call takes of this process."""
    start = time.process_time()
    function()
    return time.process_time() - start


class Catalogue:
    """Random skewed codes of three levels plus a de-duplication digit."""

    def __init__(self, items: int) -> None:
        generator = torch.Generator().manual_seed(items)
        draw = torch.rand(items + 1, 3, generator=generator)
        skewed = (draw.pow(1.5) * CODEBOOK).long().clamp_max_(CODEBOOK - 1)
        self.codes, digits = deduplicate(skewed)
        self.sizes = [CODEBOOK] * 3 + [digits]
        self.trie = build_trie(self.codes, self.sizes)

    def tokens(self, offset: int) -> list[Tensor]:
        return contiguous_tokens(self.sizes, offset)


def nested_dict(catalogue: Catalogue, offset: int) -> dict:
    shift = torch.tensor([offset + sum(catalogue.sizes[:level]) for level in range(4)])
    root: dict = {}
    for row in (catalogue.codes[1:] + shift).tolist():
        node = root
        for token in row:
            node = node.setdefault(token, {})
    return root


class TensorTrieProcessor(LogitsProcessor):
    """Method (b): mask the scores of a whole batch of beams with the tensor trie."""

    def __init__(self, trie: Trie, tokens: list[Tensor], start: int) -> None:
        self.trie, self.tokens, self.start = trie, tokens, start
        self.keys = []
        for level, size in enumerate(trie.sizes):
            degree = (trie.pointers[level][1:] - trie.pointers[level][:-1]).long()
            parent = torch.repeat_interleave(torch.arange(len(degree)), degree)
            self.keys.append(parent * size + trie.tokens[level].long())

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        path = input_ids[:, self.start :]
        node = torch.zeros(len(path), dtype=torch.int64)
        alive = torch.ones(len(path), dtype=torch.bool)
        for level in range(path.shape[1]):
            wanted = node * self.trie.sizes[level] + path[:, level] - int(self.tokens[level][0])
            at = torch.searchsorted(self.keys[level], wanted).clamp_max_(len(self.keys[level]) - 1)
            alive &= self.keys[level][at] == wanted
            node = at
        level = path.shape[1]
        start, degree = self.trie.children(level, node)
        offset = torch.arange(int(degree.max()))
        inside = (offset < degree[:, None]) & alive[:, None]
        rows, columns = inside.nonzero(as_tuple=True)
        token = self.tokens[level][self.trie.tokens[level][start[rows] + columns].long()]
        masked = torch.full_like(scores, -torch.inf)
        masked[rows, token] = scores[rows, token]
        return masked


class Recorder:
    """Passes a search through to a decoder and notes what it feeds, for the bare replay."""

    def __init__(self, decoder: Any) -> None:
        self.decoder, self.batch, self.calls = decoder, decoder.batch, []

    def first(self) -> Any:
        return self.decoder.first()

    def advance(self, tokens: Tensor, parents: Tensor, keep: bool = True) -> Any:
        self.calls.append((tokens, parents))
        return self.decoder.advance(tokens, parents, keep)

    def logits(self, step: Any, tokens: Tensor | None = None) -> Tensor:
        return self.decoder.logits(step, tokens)


def t5_config(vocabulary: int) -> T5Config:
    return T5Config(
        vocab_size=vocabulary, d_model=128, d_kv=64, num_heads=6, d_ff=1024, num_layers=4,
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=None,
    )  # fmt: skip


def build_model(name: str, code_tokens: int) -> tuple[Any, int]:
    """A randomly initialised model of the named shape, and the vocabulary id of the first code."""
    torch.manual_seed(0)
    common = {"pad_token_id": 0, "eos_token_id": None, "bos_token_id": None}
    if name == "t5":
        return T5ForConditionalGeneration(t5_config(SPECIAL + code_tokens)).eval(), SPECIAL
    if name == "llama4":
        config = LlamaConfig(
            vocab_size=SPECIAL + code_tokens, hidden_size=256, intermediate_size=688, num_hidden_layers=4,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, **common,
        )  # fmt: skip
        return LlamaForCausalLM(config).eval(), SPECIAL
    config = LlamaConfig(
        vocab_size=49152 + code_tokens, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
        num_attention_heads=9, num_key_value_heads=3, max_position_embeddings=512, **common,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval(), 49152


def random_users(batch: int, first: int, vocabulary: int) -> tuple[Tensor, Tensor]:
    """Left-padded histories of 20 to 80 tokens, and their mask."""
    generator = torch.Generator().manual_seed(7)
    lengths = torch.randint(20, PROMPT + 1, (batch,), generator=generator)
    lengths[0] = PROMPT
    mask = (torch.arange(PROMPT) >= PROMPT - lengths[:, None]).long()
    return torch.randint(first, first + vocabulary, (batch, PROMPT), generator=generator) * mask, mask


class Case:
    """One (model, catalogue, beam): the four methods on the same users."""

    def __init__(
        self, name: str, model: Any, offset: int, catalogue: Catalogue, beam: int, batch: int
    ) -> None:
        self.name, self.model, self.catalogue, self.beam, self.batch = name, model, catalogue, beam, batch
        self.k = min(20, beam)
        self.tokens = catalogue.tokens(offset)
        self.ids, self.mask = random_users(batch, offset, sum(catalogue.sizes))
        self.offset = offset
        self.start = 1 if name == "t5" else PROMPT
        self.dict_trie: dict | None = None
        self.processor: TensorTrieProcessor | None = None
        self.calls: list[tuple[Tensor, Tensor]] = []

    def decoder(self) -> Any:
        return (T5Decoder if self.name == "t5" else read_prompts)(self.model, self.ids, self.mask)

    def ours(self) -> Tensor:
        return beam_search(self.decoder(), self.catalogue.trie, self.tokens, self.k, self.beam).items

    def record(self) -> None:
        recorder = Recorder(self.decoder())
        beam_search(recorder, self.catalogue.trie, self.tokens, self.k, self.beam)
        self.calls = recorder.calls

    def bare(self) -> None:
        with torch.inference_mode():
            decoder = self.decoder()
            decoder.logits(decoder.first())
            for tokens, parents in self.calls:
                decoder.logits(decoder.advance(tokens, parents))

    def _generate(self, **constraint: Any) -> Tensor:
        with torch.inference_mode():
            out = self.model.generate(
                input_ids=self.ids, attention_mask=self.mask, num_beams=self.beam,
                num_return_sequences=self.k, max_new_tokens=4, do_sample=False, length_penalty=0.0,
                **constraint,
            )  # fmt: skip
        return out[:, self.start :].view(self.batch, self.k, 4)

    def generate_dict(self) -> Tensor:
        if self.dict_trie is None:
            self.dict_trie = nested_dict(self.catalogue, self.offset)
        root, start, fallback = self.dict_trie, self.start, [self.offset]

        def allowed(_: int, sequence: Tensor) -> list[int]:
            node = root
            for token in sequence[start:].tolist():
                node = node.get(token)
                if node is None:
                    return fallback
            return list(node) or fallback

        return self._generate(prefix_allowed_tokens_fn=allowed)

    def generate_tensor(self) -> Tensor:
        if self.processor is None:
            self.processor = TensorTrieProcessor(self.catalogue.trie, self.tokens, self.start)
        return self._generate(logits_processor=LogitsProcessorList([self.processor]))

    def as_items(self, sequences: Tensor) -> list[list[int]]:
        shift = torch.tensor([self.offset + sum(self.catalogue.sizes[:level]) for level in range(4)])
        trie = self.catalogue.trie
        return [
            [int(trie.item_of_leaf[trie.find(codes)]) for codes in (row - shift).tolist()]
            for row in sequences
        ]

    @property
    def methods(self) -> dict[str, Callable[[], Any]]:
        return {"a": self.generate_dict, "b": self.generate_tensor, "c": self.ours, "bare": self.bare}

    def agreement(self) -> float:
        """Share of list places at which (a) and (c) name the same item."""
        pairs = zip(self.as_items(self.generate_dict()), self.ours().tolist(), strict=True)
        return sum(x == y for r, g in pairs for x, y in zip(r, g, strict=True)) / (self.batch * self.k)


class HybridCase:
    """One prefix code (256) and one item token over a T5: exact softmax inside every prefix of the beam.

    (a) is ``generate`` on the same two-token task with ``renormalize_logits``; ``dot`` is a plain recommender
    on the same trunk, one product of the first state with the whole catalogue and its top K.
    """

    def __init__(self, items: int, beam: int, batch: int) -> None:
        self.name, self.items, self.beam, self.batch, self.k = "hybrid", items, beam, batch, 20
        generator = torch.Generator().manual_seed(items)
        self.prefix = (torch.rand(items, generator=generator).pow(1.5) * CODEBOOK).long()
        self.catalogue = group_by_prefix(torch.cat([self.prefix[:1], self.prefix]), CODEBOOK)
        self.empty = self.catalogue.sizes == 0
        torch.manual_seed(0)
        self.model = T5ForConditionalGeneration(t5_config(SPECIAL + CODEBOOK + items)).eval()
        self.first_item = SPECIAL + CODEBOOK
        weights = self.model.lm_head.weight.detach()[self.first_item - 1 :]
        self.vectors = by_column(weights[self.catalogue.order])
        self.ids, self.mask = random_users(batch, SPECIAL, CODEBOOK + items)
        self.codes = torch.arange(SPECIAL, self.first_item)
        self.allowed: dict[int, list[int]] = {}

    def _start(self) -> tuple[T5Decoder, Tensor, Tensor]:
        decoder = T5Decoder(self.model, self.ids, self.mask)
        logits = decoder.logits(decoder.first(), self.codes)[:, 0].masked_fill(self.empty, -torch.inf)
        scores, beam = logits.log_softmax(dim=-1).topk(self.beam)
        return decoder, scores, beam

    def _queries(self, decoder: T5Decoder, beam: Tensor) -> Tensor:
        step = decoder.advance(beam + SPECIAL, torch.zeros_like(beam), keep=False)
        return step.hidden * self.model.model_dim**-0.5

    def ours(self) -> Tensor:
        with torch.inference_mode():
            decoder, scores, beam = self._start()
            ranked, _ = search_in_prefixes(
                lambda _, part: self._queries(decoder, part),
                beam,
                scores,
                self.catalogue,
                self.vectors,
                self.k,
            )
        return ranked.items

    def bare(self) -> None:
        with torch.inference_mode():
            decoder, _, beam = self._start()
            self._queries(decoder, beam)

    def dot(self) -> None:
        with torch.inference_mode():
            hidden = T5Decoder(self.model, self.ids, self.mask).first().hidden[:, 0]
            (hidden @ self.vectors.T).topk(self.k)

    def generate(self) -> Tensor:
        if not self.allowed:
            for item, code in enumerate(self.prefix.tolist()):
                self.allowed.setdefault(code + SPECIAL, []).append(self.first_item + item)
        root = list(self.allowed)

        def allowed(_: int, sequence: Tensor) -> list[int]:
            return root if len(sequence) == 1 else self.allowed.get(int(sequence[1]), [SPECIAL])

        with torch.inference_mode():
            out = self.model.generate(
                input_ids=self.ids, attention_mask=self.mask, num_beams=self.beam,
                num_return_sequences=self.k, max_new_tokens=2, do_sample=False, length_penalty=0.0,
                renormalize_logits=True, prefix_allowed_tokens_fn=allowed,
            )  # fmt: skip
        return out[:, 2].view(self.batch, self.k) - self.first_item + 1

    @property
    def methods(self) -> dict[str, Callable[[], Any]]:
        return {"a": self.generate, "c": self.ours, "bare": self.bare, "dot": self.dot}

    def agreement(self) -> float:
        """Share of list places at which (a) and (c) name the same item."""
        return float((self.generate() == self.ours()).float().mean())
