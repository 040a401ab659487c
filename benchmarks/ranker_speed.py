"""CPU-seconds that GateSID and SORT take for an epoch, and to rank the catalogue for the whole test part.

    python benchmarks/ranker_speed.py --model SORT --dataset amazon-beauty --data_path dataset

Both are worked out from some batches, after others that are not counted; one thread, settings as shipped.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch  # noqa: E402

from recbole_sigma.quick_start import build_model  # noqa: E402
from recbole_sigma.run.config import RunConfig  # noqa: E402
from recbole_sigma.run.loaders import load_data  # noqa: E402

BATCHES, SPARE, ROWS = 24, 4, 256


def main() -> None:
    """Print both figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="SORT", choices=("GateSID", "SORT"))
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--data_path", default="dataset")
    options = parser.parse_args()
    torch.set_num_threads(1)
    values = {"data_path": options.data_path, "show_progress": False, "state": "ERROR"}
    config = RunConfig(options.model, options.dataset, config_dict=values)
    data = load_data(config, config.model_class)
    model = build_model(config, config.model_class, data.train)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config["learning_rate"], fused=True)
    model.train()
    model.on_epoch_start(0, data.train)
    rows, begin = 0, 0.0
    for number, batch in enumerate(itertools.islice(data.train, SPARE + BATCHES)):
        if number == SPARE:
            rows, begin = 0, time.process_time()
        optimizer.zero_grad()
        loss = model.calculate_loss(model.on_device(batch, torch.device("cpu")))
        (sum(loss) if isinstance(loss, tuple) else loss).backward()
        optimizer.step()
        rows += len(batch)
    epoch = (time.process_time() - begin) / rows * len(data.train._dataset)
    model.eval()
    users, asked = len(data.test._dataset), next(iter(data.test))[0][:ROWS]
    with torch.no_grad():
        model.full_sort_predict(asked[:8])
        begin = time.process_time()
        model.full_sort_predict(asked)
    ranking = (time.process_time() - begin) / len(asked) * users
    print(f"{options.model} on {options.dataset}: {epoch:.0f} CPU-s an epoch, ", end="")
    print(f"{ranking:.0f} CPU-s to rank {model.n_items - 1} items for {users} users")


if __name__ == "__main__":
    main()
