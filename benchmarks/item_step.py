"""CPU seconds of a training step over a large catalogue: all items against those that the step meets.

    python benchmarks/item_step.py --model SIGMA --items 250000 [--key=value ...]

Both forms (``softmax_negatives`` 0 and what is named, by default ``auto``) train the same network on the data
of benchmarks/scale.py, interleaved in one process on one thread. A step is loss, gradients and optimizer.
Prints median and minimum.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.scale import SETTINGS, settings_of, write_dataset


def stepper(config: Any, data: Any) -> Any:
    """A function that takes a step on a batch and returns its CPU seconds."""
    from recbole_sigma.quick_start import build_model, build_trainer

    torch.manual_seed(0)
    trainer = build_trainer(config, build_model(config, config.model_class, data.train))
    trainer.model.train()

    def step(batch: Any) -> float:
        begin = time.process_time()
        trainer.optimizer.zero_grad()
        loss = trainer.model.calculate_loss(batch)
        (sum(loss) if isinstance(loss, tuple) else loss).backward()
        trainer.optimizer.step()
        return time.process_time() - begin

    return step


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="SIGMA")
    parser.add_argument("--items", type=int, default=250_000)
    parser.add_argument("--negatives", default="auto", help="softmax_negatives of the second form")
    parser.add_argument("--steps", type=int, default=7, help="timed steps after a first one")
    words, overrides = parser.parse_known_args()
    torch.set_num_threads(1)

    from recbole_sigma.run.config import RunConfig
    from recbole_sigma.run.loaders import load_data

    with tempfile.TemporaryDirectory(prefix="items-") as temporary:
        folder = Path(temporary)
        write_dataset(folder, words.items)
        values = settings_of(folder) | (SETTINGS if words.model == "SIGMA" else {})
        steps = {}
        for negatives in ("0", words.negatives):
            own = [*overrides, f"--softmax_negatives={negatives}"]
            config = RunConfig(words.model, "scale", config_dict=values, arguments=own)
            data = load_data(config, config.model_class)
            steps[negatives] = stepper(config, data)
        torch.autograd.set_detect_anomaly(False)  # RecBole switches it on; `trainer.fit` off again
        seconds: dict[str, list[float]] = {negatives: [] for negatives in steps}
        for number, batch in enumerate(data.train):
            if number > words.steps:
                break
            for negatives, step in steps.items():
                took = step(batch)
                if number:
                    seconds[negatives].append(took)
    for negatives, took in seconds.items():
        middle, least = statistics.median(took), min(took)
        print(f"softmax_negatives {negatives}: median {middle:.3f}, minimum {least:.3f} CPU s a step")
    whole, part = (statistics.median(took) for took in seconds.values())
    print(f"{words.model}, {words.items:,} items: {whole / part:.1f} times")


if __name__ == "__main__":
    main()
