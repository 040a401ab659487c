"""What a GPU does with this package, in at most eight minutes; without one, what the host asks of it.

    python benchmarks/accelerator.py [--dataset ml-100k] [--data_path FOLDER] [--output FILE.json]

On any machine it counts, per training step and per judged batch: operators that are dispatched, views not
counted, values that the host reads back (each makes the device stop between two launches), and bytes that go
to the device. On a GPU it then

- compares losses, gradients and lists with the CPU's, in fp32, and metrics of a short training in bf16;
- trains SIGMA and PackedSASRec from the command to the table, and reports seconds, predictions per second,
  kernels per step, share of the card's measured matrix rate, and peak memory;
- trains TIGER with the paper's network on all prefixes, and a causal language model with LoRA;
- decodes lists at beams 20 and 50 over 12,000, 100,000 and 1,000,000 items.

A part that fails says so in its line and the others go on. Every part prints its figures when it has them, so
that a run which is cut off loses nothing.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

VIEWS = {
    "view", "_unsafe_view", "t", "transpose", "permute", "slice", "select", "unsqueeze", "squeeze", "expand",
    "detach", "as_strided", "alias", "split", "split_with_sizes", "unbind", "_reshape_alias", "lift_fresh",
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "PackedSASRec": {},
    "SIGMA": {},
    "SIGMA, all tasks": {"tasks": "all"},
    "SIGMA, the paper's objective": {"sigma_objective": "paper"},
}
# the network and the rows of Rajput et al. 2023 (arXiv 2305.05065, section 4.1)
TIGER_PAPER = {
    "tiger_samples": "all", "tiger_user_tokens": 2000, "train_batch_size": 256, "learning_rate": 0.01,
    "train_schedule": "inverse_sqrt",
}  # fmt: skip


class Count(TorchDispatchMode):
    """Operators that reach a kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name not in VIEWS:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


class Report:
    """Lines as they come, and all of them as one JSON file."""

    def __init__(self, output: Path | None, parts: str = "") -> None:
        self.output, self.found, self.parts = output, dict[str, Any](), tuple(parts.split("|"))

    def add(self, name: str, **figures: Any) -> None:
        """Print one line and store everything so far."""
        self.found[name] = figures
        shown = ", ".join(f"{key} {_short(value)}" for key, value in figures.items())
        print(f"{name}: {shown}", flush=True)
        if self.output:
            self.output.write_text(json.dumps(self.found, indent=1, default=str))

    def part(self, name: str, work: Callable[[], dict[str, Any]]) -> None:
        """Run one part; what stops it is its line."""
        if not name.startswith(self.parts):
            return
        started = time.perf_counter()
        try:
            figures = work()
        except Exception as error:  # the other parts still have something to tell
            figures = {
                "failed": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            }
        self.add(name, **figures, part_seconds=time.perf_counter() - started)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def values_of(options: argparse.Namespace, **changes: Any) -> dict[str, Any]:
    """Settings of a run that writes to the scratch folder alone."""
    values = {
        "show_progress": False, "state": "ERROR", "seed": 2024, "filter_seen": True,
        "checkpoint_dir": options.scratch, "artifact_dir": f"{options.scratch}/artifacts",
        "log_dir": f"{options.scratch}/log", **changes,
    }  # fmt: skip
    return {**values, "data_path": options.data_path} if options.data_path else values


def take_loss(model: Any, batch: Any) -> None:
    """Forward and backward of one batch."""
    losses = model.calculate_loss(batch)
    (sum(losses) if isinstance(losses, tuple) else losses).backward()


def build(name: str, options: argparse.Namespace, **changes: Any) -> tuple[Any, Any, Any, Any]:
    """(config, loaders, model, trainer) of a row on the device that RecBole finds, or on a CPU."""
    from recbole_sigma.quick_start import build_model, build_trainer
    from recbole_sigma.run.config import RunConfig
    from recbole_sigma.run.loaders import load_data

    config = RunConfig(name.split(",")[0], options.dataset, None, values_of(options, **changes))
    data = load_data(config, config.model_class)
    torch.manual_seed(0)
    model = build_model(config, config.model_class, data.train)
    return config, data, model, build_trainer(config, model)


# --- what the host asks, without a device -------------------------------------------------------------------


def host_side(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Operators, reads and bytes of one training step and one judged batch, on a device that is none."""
    from recbole_sigma.models.contract import contract
    from tests.elsewhere import DEVICE, pretend, reads

    settings = MODELS[name] | {"use_gpu": False, "learner": "adam", "grounding_steps": 5}
    config, data, model, _ = build(name, options, **settings)
    torch.autograd.set_detect_anomaly(False)
    batch, rows = next(iter(data.train)), next(iter(data.valid))[0]
    sent = sum(column.nbytes for column in batch.interaction.values())

    def lists(there: Any) -> None:
        if contract(model).generative:
            model.rank(there, 20)
        else:
            model.full_sort_predict(there).topk(20)

    found: dict[str, Any] = {}
    with pretend():
        config.final_config_dict["device"] = model.device = DEVICE
        model.to(DEVICE)
        for part, work, own in (("step", partial(take_loss, model), batch), ("judged_batch", lists, rows)):
            model.train(part == "step")
            there = contract(model).on_device(own, DEVICE)
            with reads() as waits, Count() as count:
                work(there)
            found[f"operators_per_{part}"] = sum(count.found.values())
            found[f"host_reads_per_{part}"] = len(waits)
    return found | {"bytes_to_the_device_per_step": sent, "rows_per_step": len(batch)}


# --- on a GPU -----------------------------------------------------------------------------------------------


@contextmanager
def clocked() -> Iterator[Callable[[], float]]:
    """Wall seconds of what runs inside, the device's work included."""
    torch.cuda.synchronize()
    begin, found = time.perf_counter(), [0.0]
    yield lambda: found[0]
    torch.cuda.synchronize()
    found[0] = time.perf_counter() - begin


def matrix_rate(dtype: torch.dtype) -> float:
    """Measured TFLOP/s of a large product: what shares are taken of."""
    a = torch.randn(8192, 8192, device="cuda", dtype=dtype)
    for _ in range(3):
        a @ a
    with clocked() as seconds:
        for _ in range(20):
            a @ a
    return 20 * 2 * 8192**3 / seconds() / 1e12


def correct(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Largest difference between the device and the CPU: losses and gradients without dropout, and lists."""
    found = []
    for gpu in (False, True):
        _, data, model, _ = build(name, options, use_gpu=gpu, **MODELS[name])
        if found:
            model.load_state_dict(found[0][3])
        device = torch.device("cuda" if gpu else "cpu")
        model.to(device).eval()
        torch.manual_seed(1)
        batch, rows = next(iter(data.train)), next(iter(data.valid))[0]
        losses = model.calculate_loss(batch.to(device))
        losses = losses[:1] if isinstance(losses, tuple) else (losses,)  # labels are drawn at random
        losses[0].backward()
        gradient = torch.cat([p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None])
        with torch.no_grad():
            scores = model.full_sort_predict(rows.to(device)).float().cpu()
        state = {key: value.cpu() for key, value in model.state_dict().items()}
        found.append((float(losses[0]), gradient, scores, state))
    (loss, gradient, scores, _), (other, away, there, _) = found
    best, same = scores.topk(10).indices, there.topk(10).indices
    same_size = gradient.shape == away.shape
    return {
        "loss_difference": abs(loss - other),
        "gradient_difference": float((gradient - away).norm() / gradient.norm()) if same_size else "shapes",
        "same_places": float((best == same).float().mean()),
    }


def to_the_table(name: str, options: argparse.Namespace, **more: Any) -> dict[str, Any]:
    """A whole run in a process of its own, from the command to the judged test set, with early stopping."""
    values = values_of(options, **MODELS[name], **more)
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, __file__, "--dataset", options.dataset, "--one", name, json.dumps(values)],
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    whole = time.perf_counter() - begin
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no message"])[-1])
    return {"whole_seconds": whole, **json.loads(done.stdout.strip().splitlines()[-1])}


def one_run(name: str, dataset: str, values: dict[str, Any]) -> dict[str, Any]:
    """Seconds and metrics of one run, in this process."""
    from recbole_sigma.quick_start import run

    result = run(name.split(",")[0], dataset, config_dict=values, saved=False)
    history, seconds = result["history"], result["seconds"]
    epochs = sorted(entry["train_seconds"] for entry in history)
    predictions = result["loaders"].train._dataset.packer.predictions
    return {
        "loading_seconds": seconds["data"],
        "preparation_seconds": seconds["model"],
        "epochs": len(history),
        "seconds_per_epoch": epochs[len(epochs) // 2],
        "first_epoch_seconds": history[0]["train_seconds"],
        "seconds_per_validation": sorted(entry.get("valid_seconds") or 0 for entry in history)[-1],
        "test_seconds": result["test"].seconds,
        "predictions_per_second": predictions / epochs[len(epochs) // 2],
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
        "best_epoch": result["best_epoch"],
        "valid_ndcg@10": result["best_valid_result"]["ndcg@10"],
        "test_hit@10": result["test_result"]["hit@10"],
        "test_ndcg@10": result["test_result"]["ndcg@10"],
    }


def step_of(name: str, options: argparse.Namespace, **more: Any) -> dict[str, Any]:
    """Kernels of one step, milliseconds taken one by one and replayed, and how busy the card is."""
    from recbole_sigma.run.replay import Replay

    _, data, model, trainer = build(name, options, **MODELS[name], **more)
    torch.autograd.set_detect_anomaly(False)
    model.train()
    batch = model.on_device(next(iter(data.train)), "cuda")
    losses_of = partial(trainer._losses, model.calculate_loss)

    def plain() -> None:
        losses = losses_of(batch)
        (sum(losses) if isinstance(losses, tuple) else losses).backward()

    replay = Replay(model, enabled=True)
    for _ in range(3):
        plain()
    replay(batch, losses_of)
    replayed = replay(batch, losses_of) is not None
    kernels, busy = on_the_card(plain)
    figures = {"kernels_per_step": kernels, "busy_ms": busy, "replayed": replayed}
    for key, work in (("ms_one_by_one", plain), ("ms_replayed", lambda: replay(batch, losses_of))):
        with clocked() as seconds:
            for _ in range(20):
                work()
        figures[key] = seconds() / 20 * 1e3
    return figures


def on_the_card(work: Callable[[], None]) -> tuple[int, float]:
    """(kernels, milliseconds that the card computes) of one call."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as found:
        work()
        torch.cuda.synchronize()
    events = [event for event in found.key_averages() if event.self_device_time_total]
    return sum(e.count for e in events), sum(e.self_device_time_total for e in events) / 1e3


def tiger(options: argparse.Namespace) -> dict[str, Any]:
    """The paper's network on all prefixes: training in bf16, and lists at beam 50."""
    values = {"train_precision": "bf16", "decode_beam": 50, **TIGER_PAPER}
    _, data, model, trainer = build("TIGER", options, **values)
    trainer._train_data = data.train
    for epoch in range(2):  # shapes are met, then recorded
        trainer._train_epoch(data.train, epoch)
    with clocked() as seconds:
        trainer._train_epoch(data.train, 2)
    rows = len(data.train._dataset.inter_feat)
    trainer.judge.collector.data_collect(data.train)
    with clocked() as judging:
        trainer.judge.judge(model, data.test)
    users = len(data.test._dataset.inter_feat)
    shapes = trainer._replay.found.values()
    return {
        "prefixes_per_second": rows / seconds(),
        "minutes_for_200000_steps": seconds() / len(data.train) * 200_000 / 60,
        "recordings": sum(found is not None for found in shapes),
        "shapes": len(shapes),
        "judged_users": users,
        "judging_seconds": judging(),
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
    }


def language_model(peak: float, *more: str) -> dict[str, Any]:
    """LoRA on a shape of 0.6 billion weights, by the script that is there for it."""
    script = Path(__file__).parent / "lm_step.py"
    command = [
        sys.executable, str(script), "--shape", "qwen3-0.6b", "--device", "cuda", "--bf16",
        "--steps", "5", "--peak", f"{peak:.0f}", *more,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no message"])[-1])
    lines = (line.split() for line in done.stdout.strip().splitlines())
    return {line[0]: float(line[-1].replace(",", "")) for line in lines}


def decoding(items: int, beam: int) -> dict[str, Any]:
    """Lists of a T5 behind semantic IDs of four codes, users per second in batches of 64."""
    from benchmarks.decoding_cases import Case, Catalogue, build_model

    catalogue = Catalogue(items)
    model, offset = build_model("t5", sum(catalogue.sizes))
    case = Case("t5", model.cuda().eval(), offset, catalogue, beam, 64)
    case.ids, case.mask = case.ids.cuda(), case.mask.cuda()
    case.tokens = [tokens.cuda() for tokens in case.tokens]
    catalogue.trie = catalogue.trie.to("cuda")
    case.ours()
    with clocked() as seconds:
        for _ in range(5):
            case.ours()
    return {"users_per_second": 5 * 64 / seconds(), "peak_gib": torch.cuda.max_memory_allocated() / 2**30}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="ml-100k", help="a set that RecBole finds")
    parser.add_argument("--data_path", help="folder of the set's folder")
    parser.add_argument("--output", type=Path, help="also write the figures as JSON")
    parser.add_argument("--parts", default="", help="only parts whose name begins with one of these, by |")
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "JSON"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one_run(options.one[0], options.dataset, json.loads(options.one[1]))))
        return
    with tempfile.TemporaryDirectory() as scratch:
        options.scratch = scratch
        report = Report(options.output, options.parts)
        gpu = torch.cuda.is_available()
        report.add(
            "machine",
            python=platform.python_version(),
            torch=torch.__version__,
            device=torch.cuda.get_device_name(0) if gpu else "no GPU: what the host asks, and nothing else",
        )
        for name in MODELS:
            report.part(f"host side, {name}", lambda name=name: host_side(name, options))
        if not gpu:
            return
        rate = matrix_rate(torch.bfloat16)
        report.add("matrix rate", bf16_tflops=rate, fp32_tflops=matrix_rate(torch.float32))
        for name in MODELS:
            report.part(f"against the CPU, {name}", lambda name=name: correct(name, options))
        for name in ("PackedSASRec", "SIGMA"):
            for half in ("fp32", "bf16"):
                more = {"train_precision": half}
                report.part(
                    f"step, {name}, {half}", lambda name=name, more=more: step_of(name, options, **more)
                )
                report.part(
                    f"to the table, {name}, {half}",
                    lambda name=name, more=more: to_the_table(name, options, **more),
                )
        report.part("TIGER, the paper's network", lambda: tiger(options))
        for items in (12_000, 100_000, 1_000_000):
            for beam in (20, 50):
                report.part(f"lists, {items:,} items, beam {beam}", lambda i=items, b=beam: decoding(i, b))
        report.part(
            "language model with LoRA, 16 rows",
            lambda: language_model(rate, "--compile", "--rows", "16", "--train-only"),
        )
        report.part(
            "language model, lists of 64 users",
            lambda: language_model(rate, "--compile", "--rows", "64", "--lists-only"),
        )


if __name__ == "__main__":
    main()
