"""Tiny language models that the tests build and save: real classes, real files, random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

TEXTS = ["red thing number 1", "blue thing number 2", "green thing. kind green", "recommend the next item"]


def small_tokenizer(special: tuple[str, ...] = ("<s>", "</s>")) -> Tokenizer:
    """Byte-level BPE, as GPT-2, Llama 3 and Qwen have."""
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 4, trainer)
    return tokenizer


def save_model(
    folder: Path, shape: str, seed: int = 0, special: tuple[str, ...] = ("<s>", "</s>"), **more: Any
):
    """Write a tiny model with its tokenizer to a folder; returns the folder's name."""
    from transformers import (
        BertConfig,
        BertForMaskedLM,
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
        PreTrainedTokenizerFast,
        Qwen3Config,
        Qwen3ForCausalLM,
        T5Config,
        T5ForConditionalGeneration,
    )

    tokenizer = small_tokenizer(special)
    size = tokenizer.get_vocab_size() + 20  # as Qwen: the table is longer than the vocabulary
    common: dict[str, Any] = {"vocab_size": size, "pad_token_id": None, "bos_token_id": 0, "eos_token_id": 1}
    body = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
    }
    grouped = {**common, **body, "num_key_value_heads": 2, "head_dim": 8}
    torch.manual_seed(seed)
    if shape == "qwen3":
        model = Qwen3ForCausalLM(Qwen3Config(**{**grouped, "tie_word_embeddings": True, **more}))
    elif shape == "llama":
        model = LlamaForCausalLM(LlamaConfig(**{**grouped, "tie_word_embeddings": False, **more}))
    elif shape == "gpt2":
        model = GPT2LMHeadModel(
            GPT2Config(**{**common, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, **more})
        )
    elif shape == "t5":
        model = T5ForConditionalGeneration(
            T5Config(vocab_size=size, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4)
        )
    elif shape == "bert":
        model = BertForMaskedLM(BertConfig(**{**common, **body, "pad_token_id": 0}))
    else:
        raise ValueError(shape)
    # trained weights are no fresh draw: biases and norms away from their initial 0 and 1
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Function from a shape's name to the folder of a model of it."""
    root, made = tmp_path_factory.mktemp("models"), {}

    def get(shape: str) -> str:
        if shape not in made:
            made[shape] = save_model(root / shape, shape)
        return made[shape]

    return get
