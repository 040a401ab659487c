"""Pretrained causal language models from a folder or the hub: loading, LoRA, and which base it was."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from recbole_sigma.values import UserError

_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model")


def load_tokenizer(name: str, key: str) -> Tokenizer:
    """The fast tokenizer of a pretrained model.

    Args:
        name: folder or hub name.
        key: the option that names it, for errors.

    Raises:
        UserError: not found, no network, or a tokenizer without a ``tokenizer.json``.
    """
    from transformers import AutoTokenizer

    _check_folder(name, key)
    folder = Path(name).expanduser()
    if folder.is_dir() and not any((folder / file).is_file() for file in _TOKENIZER_FILES):
        # transformers would make up an empty tokenizer of the model's class
        raise UserError(
            f"{key}: '{name}' holds no tokenizer: copy tokenizer.json of the model into it, or save it there"
            " (AutoTokenizer.from_pretrained(...).save_pretrained(folder))"
        )
    with _sentences(name, key), quiet():
        loaded = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    backend = setting(loaded, "backend_tokenizer")
    if not isinstance(backend, Tokenizer):
        raise UserError(
            f"{key}: the tokenizer of '{name}' is not a fast one: save it with its tokenizer.json "
            "(AutoTokenizer.from_pretrained(..., use_fast=True).save_pretrained(folder))"
        )
    return Tokenizer.from_str(backend.to_str())  # a copy: padding and truncation set by others stay there


def causal_config(name: str, key: str) -> Any:
    """The configuration of a causal language model; reads no weights.

    Args:
        name: folder or hub name.
        key: the option that names it, for errors.

    Raises:
        UserError: not found, no network, or no causal language model.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    _check_folder(name, key)
    with _sentences(name, key), quiet():
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    kind = config.model_type
    if setting(config, "is_encoder_decoder"):
        raise UserError(_wrong_kind(name, key, kind, "an encoder-decoder"))
    # BERT and its family are in the causal list as decoders, but were trained to look both ways
    if kind not in CAUSAL or any(
        architecture.endswith(("ForMaskedLM", "ForPreTraining", "BertModel", "RobertaModel"))
        or architecture.startswith(("Bert", "Roberta", "XLMRoberta", "Electra", "Camembert"))
        for architecture in config.architectures or ()
    ):
        raise UserError(_wrong_kind(name, key, kind, "an encoder without causal attention"))
    return config


def check_causal_model(name: str, key: str) -> None:
    """Find out what `load_causal_model` and `load_tokenizer` would refuse, as far as that is quick.

    Raises:
        UserError: as theirs.
    """
    causal_config(name, key)
    load_tokenizer(name, key)


def load_causal_model(name: str, key: str, dtype: torch.dtype = torch.float32) -> Any:
    """A causal language model, every weight read from the folder or the hub.

    Args:
        name: folder or hub name.
        key: the option that names it, for errors.
        dtype: of the weights.

    Raises:
        UserError: not found, no network, no causal language model, damaged or incomplete weights.
    """
    from transformers import AutoModelForCausalLM

    config = causal_config(name, key)
    with _sentences(name, key), quiet():
        model, info = AutoModelForCausalLM.from_pretrained(
            name,
            config=config,
            dtype=dtype,
            attn_implementation="sdpa",
            output_loading_info=True,
            trust_remote_code=False,
        )
    tied = {"lm_head.weight"} if model.config.get_text_config().tie_word_embeddings else set()
    missing = sorted(set(info["missing_keys"]) - tied)
    if missing:
        raise UserError(
            f"{key}: the weights of '{name}' lack {len(missing)} tensors (first: {missing[0]}), which would"
            " be random: download or save the model again"
        )
    return model


def setting(config: Any, name: str) -> Any:
    """A value of a transformers config or model that only some architectures have; None where it is
    missing.
    """
    return getattr(config, name, None)


def _wrong_kind(name: str, key: str, kind: str, what: str) -> str:
    return (
        f"{key}: '{name}' is {what} ({kind}), not a causal language model: name one such as Qwen3, Llama, "
        "SmolLM2 or GPT-2 (sentence encoders go to grounding_text_encoder=sentence-transformers:...)"
    )


def _check_folder(name: str, key: str) -> None:
    """What a folder must hold, said before transformers says it in three screens."""
    folder = Path(name).expanduser()
    if not name or (not folder.exists() and (name[0] in "./~" or name.count("/") > 1)):
        near = ""
        if folder.parent.is_dir():
            from recbole_sigma.settings.reading import nearest

            near = nearest(folder.name, [path.name for path in folder.parent.iterdir() if path.is_dir()])
        raise UserError(
            f"{key}: the model folder '{name}' does not exist{near}; name the one where the model lies now"
        )
    if not folder.exists():
        _check_hub(name, key)
        return
    if not folder.is_dir() or not (folder / "config.json").is_file():
        raise UserError(
            f"{key}: '{name}' holds no config.json, so it is no saved transformers model: name the folder"
            " that save_pretrained wrote (an adapter alone is not enough, its base is needed)"
        )
    if (
        not any(folder.glob("*.safetensors"))
        and not any(folder.glob("*.bin"))
        and not (folder / "tokenizer.json").is_file()
    ):
        raise UserError(
            f"{key}: '{name}' has a config.json but no weights (*.safetensors): download or save it again"
        )


def _check_hub(name: str, key: str) -> None:
    """Ask the hub once, where transformers would ask six times and wait in between."""
    from huggingface_hub import HfApi, constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        if constants.HF_HUB_OFFLINE or isinstance(try_to_load_from_cache(name, "config.json"), str):
            return
        HfApi().model_info(name, timeout=10)
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UserError(
            f"{key}: '{name}' is no folder here and no model of the hub that you may read: check the name, or"
            " log in (hf auth login) if it is a private one"
        ) from error
    except Exception as error:  # whatever the network library calls it
        raise UserError(_unreachable(name, key, error)) from error


def _unreachable(name: str, key: str, error: Exception) -> str:
    return (
        f"{key}: the model '{name}' is no folder here and cannot be fetched ({type(error).__name__}): check"
        " the name and the network, or download it elsewhere and name its folder"
    )


@contextlib.contextmanager
def _sentences(name: str, key: str) -> Iterator[None]:
    """One sentence instead of transformers' stack traces."""
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, KeyError, ImportError, TypeError, RuntimeError) as error:
        first = " ".join(str(error).split())[:160]
        if Path(name).expanduser().exists():
            raise UserError(
                f"{key}: the model in '{name}' cannot be loaded ({first}): save it again"
            ) from error
        raise UserError(_unreachable(name, key, error)) from error
    except Exception as error:  # what tokenizers and safetensors raise has no class of its own
        raise UserError(
            f"{key}: the model '{name}' cannot be loaded ({type(error).__name__}: {str(error)[:160]}): "
            "download or save it again"
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' progress bars and notes out of the run's output."""
    from transformers.utils import logging as theirs

    hub = logging.getLogger("huggingface_hub")
    level, bars, hub_level = theirs.get_verbosity(), theirs.is_progress_bar_enabled(), hub.level
    theirs.set_verbosity_error()
    theirs.disable_progress_bar()
    hub.setLevel(logging.ERROR)
    try:
        yield
    finally:
        hub.setLevel(hub_level)
        theirs.set_verbosity(level)
        if bars:
            theirs.enable_progress_bar()


# --- LoRA -----------------------------------------------------------------------------------------------


def recompute_activations(model: Any) -> None:
    """Trade time for memory: activations inside each layer are computed again in the backward pass."""
    enable = setting(model, "activation_checkpointing_enable") or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})


# --- which base -----------------------------------------------------------------------------------------


def vocabulary_fingerprint(tokenizer: Tokenizer) -> Tensor:
    """SHA-256 of a tokenizer's vocabulary and merges: uint8 [32]."""
    parts = json.loads(tokenizer.to_str())
    kept = {name: parts.get(name) for name in ("added_tokens", "normalizer", "pre_tokenizer", "model")}
    return _digest(json.dumps(kept, sort_keys=True).encode())


def weights_fingerprint(model: nn.Module) -> Tensor:
    """SHA-256 over names, shapes and 64 values of every tensor, read as bf16: uint8 [32].

    bf16, so that a base loaded in fp32 and in bf16 counts as one.
    """
    parts = []
    for name, parameter in sorted(model.named_parameters()):
        flat = parameter.detach().reshape(-1)
        some = flat[torch.linspace(0, len(flat) - 1, 64, device=flat.device).long()]
        parts.append(f"{name}{tuple(parameter.shape)}".encode())
        parts.append(some.to("cpu", torch.bfloat16).view(torch.uint8).numpy().tobytes())
    return _digest(b"|".join(parts))


def _digest(content: bytes) -> Tensor:
    return torch.tensor(list(hashlib.sha256(content).digest()), dtype=torch.uint8)


@dataclass(frozen=True)
class TextTokens:
    """A text as tokens.

    Attributes:
        ids: vocabulary ids.
        offsets: (begin, end) of each token in the text.
    """

    ids: list[int]
    offsets: list[tuple[int, int]]


def encode_as_text(tokenizer: Tokenizer, texts: Sequence[str]) -> list[TextTokens]:
    """Tokens of texts that people typed or that stand in data: a control token's name in them is plain text.

    Otherwise ``<|end|>`` in a title would end the prompt, and ``<a_3>`` would be a semantic ID.

    Args:
        tokenizer: with added tokens or without.
        texts: any texts; those without the name of an added token have the same ids as ever.
    """
    added = tokenizer.get_added_tokens_decoder().values()
    # the tokenizer itself reads names of special tokens as text if asked to, but no others
    others = sorted((t.content for t in added if not t.special and len(t.content) > 1), key=len, reverse=True)
    names = re.compile("|".join(map(re.escape, others)), re.I) if others else None
    before, tokenizer.encode_special_tokens = tokenizer.encode_special_tokens, True
    try:
        if names is None or not any(map(names.search, texts)):
            encoded = tokenizer.encode_batch(list(texts), add_special_tokens=False)
            return [TextTokens(one.ids, one.offsets) for one in encoded]
        return [_in_pieces(tokenizer, text, names) for text in texts]
    finally:
        tokenizer.encode_special_tokens = before


def _in_pieces(tokenizer: Tokenizer, text: str, names: re.Pattern[str]) -> TextTokens:
    """A text cut behind the first character of each name, so that no piece holds one."""
    cuts, at = [0], 0
    while found := names.search(text, at):
        at = found.start() + 1
        cuts.append(at)
    ids: list[int] = []
    offsets: list[tuple[int, int]] = []
    for begin, end in zip(cuts, [*cuts[1:], len(text)], strict=True):
        piece = tokenizer.encode(text[begin:end], add_special_tokens=False)
        ids += piece.ids
        offsets += [(begin + a, begin + b) for a, b in piece.offsets]
    return TextTokens(ids, offsets)


def add_tokens(tokenizer: Tokenizer, tokens: Sequence[str]) -> list[str]:
    """Add special tokens that the vocabulary lacks; returns those that were added, in order of their ids."""
    known = tokenizer.get_vocab(with_added_tokens=True)
    new = [token for token in tokens if token not in known]
    tokenizer.add_special_tokens(new)
    if new:
        logging.getLogger().info("%d tokens added to the vocabulary of %d", len(new), len(known))
    return new


def folder_stamp(name: str) -> str:
    """What identifies the files behind ``kind:<folder>``: names, sizes and times; '' for a hub name."""
    folder = Path(name.partition(":")[2]).expanduser()
    if not name.partition(":")[2] or not folder.is_dir():
        return ""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return json.dumps([[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files])
