"""Fits, trains, decodes? One language-model training step and one decode at a real model's shape.

    python benchmarks/lm_step.py                                    # a small shape, for a look on any machine
    python benchmarks/lm_step.py --shape qwen3-0.6b --rows 16 --device cuda --bf16 --steps 10

Weights are random (nothing is downloaded): speed and memory do not depend on them, accuracy is not measured.
Decoding is the product's: the prompt once, a beam over the prefixes of a random catalogue behind its cache,
and the exact search for 10 items inside them. Prints tokens/s and items/s of training, of prompt encoding and
of whole lists, peak memory, and model FLOPs utilisation (6 N per trained token; with frozen weights 4 N, no
weight gradients; 2 N per token read while decoding; N without embeddings) against ``--peak`` TFLOP/s, which
must be given for the device at hand. On one CPU thread seconds are CPU-seconds, so that a busy machine
does not count.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Callable

import torch

from recbole_sigma.decoding.beam import search_prefixes, states_of
from recbole_sigma.decoding.causal import CausalDecoder
from recbole_sigma.decoding.inside_prefix import by_column, search_in_prefixes
from recbole_sigma.decoding.kv import Step
from recbole_sigma.language.backbone import compiled_parts, empty_cache, hidden_states, output_rows
from recbole_sigma.language.grown import grow_pretrained
from recbole_sigma.language.loading import recompute_activations
from recbole_sigma.language.lora import LoraOptions
from recbole_sigma.tokenization.catalogue import build_catalogue

SHAPES = {
    # hidden, layers, heads, key-value heads, head width, feed-forward, vocabulary, tied: from the models'
    # cards
    "small": (256, 4, 4, 2, 64, 768, 8000, True),
    "smollm2-135m": (576, 30, 9, 3, 64, 1536, 49152, True),
    "qwen3-0.6b": (1024, 28, 16, 8, 128, 3072, 151936, True),
}


def random_model(shape: str, dtype: torch.dtype, device: str) -> torch.nn.Module:
    """A Qwen3 model of the shape with random weights."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    width, layers, heads, pairs, head, inner, vocabulary, tied = SHAPES[shape]
    config = Qwen3Config(
        vocab_size=vocabulary, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=pairs, head_dim=head, intermediate_size=inner, tie_word_embeddings=tied,
        max_position_embeddings=4096, attn_implementation="sdpa",
    )  # fmt: skip
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return Qwen3ForCausalLM(config)
    finally:
        torch.set_default_dtype(before)


LIST = 10  # items of a list


def list_maker(
    model: torch.nn.Module, options: argparse.Namespace, first: int, device: torch.device
) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor], int]:
    """Function from a batch of prompts to lists, as SIGMA decodes with ``decode_beam``: it returns how many
    tokens the trunk read per user.
    """
    sizes = (options.codes,) * options.levels
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(options.codes, (options.items + 1, options.levels), generator=generator)
    items = build_catalogue(codes, sizes, options.levels).to(device)
    trie = items.trie
    level_tokens = [
        first + options.codes * level + torch.arange(options.codes, device=device)
        for level in range(options.levels)
    ]
    width = model.get_input_embeddings().weight.shape[1]  # type: ignore[operator,union-attr]
    unit = torch.nn.functional.normalize(torch.randn(options.items + 1, width, generator=generator), dim=1)
    vectors = by_column(unit.to(device)[items.order])

    def head(step: Step, ids: torch.Tensor | None) -> torch.Tensor:
        assert ids is not None
        return step.hidden.float() @ output_rows(model, ids).float().T

    def lists(rows: torch.Tensor, positions: torch.Tensor, allowed: torch.Tensor) -> int:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=options.bf16):
            cache = empty_cache(model)
            context = hidden_states(model, rows, positions, allowed, cache)[:, -1].float()
            decoder = CausalDecoder(
                lambda *step: hidden_states(model, *step),
                model.get_input_embeddings(),  # type: ignore[operator]
                head,
                cache,
                allowed[:, -1],
                positions[:, -1] + 1,
                Step(context[:, None], None),
            )
            beams = search_prefixes(
                decoder, trie, level_tokens, options.beam, options.levels, score="level", last=options.beam
            )
            ranked, _ = search_in_prefixes(
                lambda columns, _: states_of(decoder, beams, columns).float(),
                beams.nodes,
                beams.scores,
                items,
                vectors,
                LIST,
            )
        assert ranked.items.shape == (len(rows), LIST)
        return rows.shape[1] + sum(decoder.forwarded)

    return lists


def recorded(work: Callable[[], None], forget: Callable[[], None]) -> Callable[[], None]:
    """A pass as a CUDA graph, as `run.replay` records training steps."""
    for _ in range(3):  # kernels are chosen and compiled
        work()
    forget()  # nothing of the graphs before may be alive
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Run the steps; see the module's text for what comes back."""
    device = torch.device(options.device)
    half = torch.bfloat16 if options.bf16 else torch.float32
    torch.manual_seed(0)
    model = random_model(options.shape, half if options.rank else torch.float32, options.device)
    size = SHAPES[options.shape][6]
    grow_pretrained(model, size, options.codes * options.levels, LoraOptions(rank=options.rank, dropout=0.0))
    model.to(device)
    if options.checkpointing:
        recompute_activations(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    width, rows, length = SHAPES[options.shape][0], options.rows, options.tokens
    body = sum(p.numel() for n, p in model.named_parameters() if "embed" not in n and "lm_head" not in n)
    positions = torch.arange(length, device=device).expand(rows, -1)
    allowed = torch.ones(length, length, dtype=torch.bool, device=device).tril().expand(rows, -1, -1)
    ids = torch.randint(size, size + options.codes * options.levels, (rows, length), device=device)
    # every other position is an item token that comes as an embedding
    fused = torch.nn.Parameter(torch.randn(rows, length // 2, width, device=device) * 0.02)

    def prompts() -> torch.Tensor:
        embeddings = model.get_input_embeddings()(ids).clone()  # type: ignore[operator]
        embeddings[:, 1::2] = fused[:, : embeddings[:, 1::2].shape[1]].to(embeddings.dtype)
        return embeddings

    def forward() -> torch.Tensor:
        embeddings = prompts()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=options.bf16):
            return hidden_states(model, embeddings, positions, allowed)

    def train() -> None:
        states = forward()
        logits = states.float() @ model.get_input_embeddings().rows.float().T  # type: ignore[union-attr,operator]
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten() - size)
        optimizer.zero_grad()
        loss.backward()
        kept[:] = [loss.detach()]

    kept: list[torch.Tensor] = []  # the loss, read when all steps are taken
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter

    def seconds(work: Callable[[], object], steps: int) -> float:
        if device.type == "cuda":  # kernels are chosen and compiled in the first call
            work()
            torch.cuda.synchronize()
        begin = clock()
        for _ in range(steps):
            work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return (clock() - begin) / steps

    model.train()
    if options.compile:
        for part in compiled_parts(model):
            part.compile()
    tokens, training, decoding = rows * length, {}, {}
    if not options.lists_only:
        passes = recorded(train, kept.clear) if device.type == "cuda" and options.compile else train

        def take_step() -> None:
            passes()
            optimizer.step()

        step = seconds(take_step, options.steps)
        if not torch.isfinite(kept[0]):
            raise RuntimeError("the loss is not finite")
        flops = (4 if options.rank else 6) * body * tokens / step
        training = {
            "train_step_s": step,
            "train_tokens_per_s": tokens / step,
            "train_items_per_s": tokens / 2 / step,
            "train_tflops": flops / 1e12,
        }
        if options.peak:
            training["train_mfu"] = flops / 1e12 / options.peak
    if not options.train_only:
        model.eval()
        lists = list_maker(model, options, size, device)
        with torch.inference_mode():
            encode = seconds(forward, options.steps)
            reads = rows * lists(prompts(), positions, allowed)
            decode = seconds(lambda: lists(prompts(), positions, allowed), options.steps)
        decoding = {
            "prompt_tokens_per_s": tokens / encode,
            "prompt_users_per_s": rows / encode,
            "decode_tokens_per_s": reads / decode,
            "decode_users_per_s": rows / decode,
            "decode_items_per_s": rows * LIST / decode,
        }
        if options.peak:
            decoding["decode_mfu"] = 2 * body * reads / decode / 1e12 / options.peak
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**30
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        "parameters": float(sum(p.numel() for p in model.parameters())),
        "trained": float(sum(p.numel() for p in trained)),
        **training,
        **decoding,
        "peak_memory_gib": peak,
    }


def main(arguments: list[str]) -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--rows", type=int, default=1, help="packed rows per step")
    parser.add_argument("--tokens", type=int, default=512, help="positions per row, half of them items")
    parser.add_argument("--codes", type=int, default=128, help="codes per level")
    parser.add_argument("--levels", type=int, default=2, help="codes of a prefix")
    parser.add_argument("--beam", type=int, default=20, help="prefixes in the beam")
    parser.add_argument("--items", type=int, default=20_000, help="items of the catalogue")
    parser.add_argument("--rank", type=int, default=16, help="LoRA rank; 0 trains every weight")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--compile", action="store_true", help="what train_compile: on does")
    parser.add_argument("--train-only", action="store_true", help="no prompts and no lists")
    parser.add_argument("--lists-only", action="store_true", help="no training")
    parser.add_argument("--peak", type=float, default=0.0, help="TFLOP/s of the device in the type used")
    options = parser.parse_args(arguments)
    for name, value in measure(options).items():
        print(f"{name:22s} {value:,.4g}" if value < 1e4 else f"{name:22s} {value:,.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
