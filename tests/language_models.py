"""Small language models that the tests build and save: real classes, real files, random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

TEXTS = ["red thing number 1", "blue thing number 2", "green thing. kind green", "recommend the next item"]
CLASSES = {
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM"),
    "llama": ("LlamaConfig", "LlamaForCausalLM"),
    "mistral": ("MistralConfig", "MistralForCausalLM"),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel"),
    "t5": ("T5Config", "T5ForConditionalGeneration"),
    "bert": ("BertConfig", "BertForMaskedLM"),
}


def random_model(family: str, vocabulary: int, seed: int = 0, **changes: Any) -> Any:
    """A two-layer model of 32 dimensions in evaluation mode; ``changes`` go to its configuration."""
    config, model = (getattr(transformers, name) for name in CLASSES[family])
    shape: dict[str, Any] = {"num_attention_heads": 4, "hidden_size": 32, "num_hidden_layers": 2}
    shape |= {"intermediate_size": 48, "max_position_embeddings": 256}
    if family == "gpt2":
        shape = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
    elif family == "t5":
        shape = {"d_model": 32, "d_kv": 8, "num_heads": 4, "d_ff": 64, "num_layers": 2}
    elif family != "bert":
        shape["num_key_value_heads"] = 2
    if family == "qwen3":
        shape["head_dim"] = 8
    torch.manual_seed(seed)
    return model(config(vocab_size=vocabulary, **{**shape, **changes})).eval()


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
    folder: Path, family: str, seed: int = 0, special: tuple[str, ...] = ("<s>", "</s>"), **changes: Any
) -> str:
    """Write a model with its tokenizer to a folder; returns the folder's name."""
    tokenizer = small_tokenizer(special)
    options = {"pad_token_id": 0 if family == "bert" else None, "bos_token_id": 0, "eos_token_id": 1}
    if family in ("qwen3", "llama"):
        options["tie_word_embeddings"] = family == "qwen3"
    if family == "t5":
        options = {}
    size = tokenizer.get_vocab_size() + 20  # as Qwen: the table is longer than the vocabulary
    model = random_model(family, size, seed, **{**options, **changes})
    # trained weights are no fresh draw: biases and norms away from their initial 0 and 1
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    return str(folder)
