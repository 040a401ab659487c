"""Speed of SIGMA's training and evaluation on ml-100k: CPU seconds, one thread, and where they go.

    python benchmarks/sigma_speed.py [--epochs 3] [--output speed.json] [--key=value ...]

Prints next-item predictions per CPU-second (median and best over epochs after a warm-up epoch), CPU seconds
of one evaluation of all users, and the share of each part of a training step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="SIGMA", help="SIGMA or PackedSASRec")
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--epochs", type=int, default=3, help="timed epochs after one warm-up epoch")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, help="also write the figures as JSON")
    arguments, overrides = parser.parse_known_args()
    torch.set_num_threads(arguments.threads)

    from recbole_sigma.quick_start import build_model, build_trainer
    from recbole_sigma.run.config import RunConfig
    from recbole_sigma.run.loaders import load_data

    config = RunConfig(arguments.model, arguments.dataset, None, {"show_progress": False}, overrides)
    data = load_data(config, config.model_class)
    begin = time.process_time()
    model = build_model(config, config.model_class, data.train)
    build_seconds = time.process_time() - begin
    trainer = build_trainer(config, model)
    trainer.judge.collector.data_collect(data.train)
    predictions = data.train._dataset.packer.predictions

    torch.autograd.set_detect_anomaly(False)  # RecBole switches it on; `trainer.fit` off again
    speeds, evaluations = [], []
    for epoch in range(arguments.epochs + 1):
        model.on_epoch_start(epoch, data.train)
        begin = time.process_time()
        trainer._train_epoch(data.train, epoch)
        speed = predictions / (time.process_time() - begin)
        begin = time.process_time()
        trainer.judge.judge(model, data.valid)
        evaluation = time.process_time() - begin
        if epoch:
            speeds.append(speed)
            evaluations.append(evaluation)
    figures = {
        "model": arguments.model,
        "dataset": arguments.dataset,
        "threads": arguments.threads,
        "targets_per_epoch": predictions,
        "predictions_per_cpu_second": round(statistics.median(speeds)),
        "best_predictions_per_cpu_second": round(max(speeds)),
        "evaluation_cpu_seconds": round(statistics.median(evaluations), 2),
        "least_evaluation_cpu_seconds": round(min(evaluations), 2),
        "evaluated_users": len(data.valid._dataset),
        "preparation_cpu_seconds": round(build_seconds, 2),
        "parameters": sum(p.numel() for p in model.parameters()),
        "parts": where_time_goes(model, trainer, data),
    }
    print(json.dumps(figures, indent=2))
    if arguments.output:
        arguments.output.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def where_time_goes(model: torch.nn.Module, trainer: object, data: object) -> dict[str, float]:
    """Share of CPU time per group of operators over four training steps, backward included."""
    model.train()
    with profile(activities=[ProfilerActivity.CPU]) as prof:
        for step, batch in enumerate(data.train):
            if step == 4:
                break
            with record_function("step"):
                loss = model.calculate_loss(batch)
                (sum(loss) if isinstance(loss, tuple) else loss).backward()
            model.zero_grad()
    groups = {
        "matrix products": ("mm", "addmm", "bmm", "baddbmm"),
        "attention": ("scaled_dot_product", "softmax"),
        "dropout": ("dropout", "bernoulli"),
        "norms and activations": ("layer_norm", "tanh", "gelu", "pow"),
        "gathers and scatters": ("index", "embedding", "gather", "scatter", "sort", "unique"),
    }
    total = 0.0
    share = dict.fromkeys(groups, 0.0)
    for event in prof.key_averages():
        if event.key.startswith("aten::"):
            total += event.self_cpu_time_total
            for group, words in groups.items():
                if any(word in event.key for word in words):
                    share[group] += event.self_cpu_time_total
                    break
    return {group: round(value / total, 3) for group, value in share.items()}


if __name__ == "__main__":
    main()
