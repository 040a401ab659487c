"""What adaptive probabilistic fusion does to a trained SIGMA: accuracy over temperature, space, beam and list
length, and the distributions behind it.

    python benchmarks/fusion.py --checkpoint=FILE [--users=5000] [--temperatures=0.5,0.7,1,1.4,2]
        [--beams=0,20] [--data_path=FOLDER] [--output=FILE.json]

One table: hit@K and NDCG@10 of each way to fuse, on test users (all, or some by a fixed hash), seen items
left out. "sigma over" is what sigma is divided by: its mean over validation users of the same beam and space,
or 1 (the paper's formula). A second table: quantiles over users of sigma, of the best prefix's chance and
of the number of prefixes that hold 90 % of the mass.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from tabulate import tabulate

from recbole_sigma.decoding.fusion import beam_spread
from recbole_sigma.evaluation.histories import Histories
from recbole_sigma.instructions.rules import draw_hash
from recbole_sigma.machine.progress import Progress
from recbole_sigma.quick_start import load_data_and_model

DEPTHS = (5, 10, 20, 50, 100)
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_REFERENCE_USERS = 1024


class Users:
    """Rows of one evaluation part, in batches with what their users have met.

    Args:
        loader: RecBole's evaluation loader.
        config: its config.
        limit: rows kept; 0 = all.
    """

    def __init__(self, loader: Any, config: Any, limit: int) -> None:
        dataset, self.config, self.histories = loader._dataset, config, Histories(loader)
        self.rows = dataset.inter_feat
        users = self.rows[dataset.uid_field].numpy()
        targets = self.rows[dataset.iid_field].numpy()
        order = np.argsort(draw_hash(users, targets, 0), kind="stable")
        self.index = np.sort(order[:limit] if limit else order)
        self.targets = targets[self.index]

    def batches(self) -> Any:
        """(interaction, seen pairs or None) of each batch."""
        size = int(self.config["eval_batch_size"])
        for begin in range(0, len(self.index), size):
            batch = self.rows[torch.from_numpy(self.index[begin : begin + size])]
            seen = None
            if self.config["filter_seen"]:
                pair = self.histories(batch, None)
                seen = (pair[0].to(self.config["device"]), pair[1].to(self.config["device"]))
            yield batch.to(self.config["device"]), seen


@torch.inference_mode()
def accuracy(model: Any, users: Users) -> dict[str, float]:
    """hit@K for each of `DEPTHS` and NDCG@10 under the model's present settings."""
    found = []
    for batch, seen in users.batches():
        found.append(model.rank(batch, max(DEPTHS), seen).items.cpu().numpy())
    match = np.concatenate(found) == users.targets[:, None]
    place = np.where(match.any(axis=1), match.argmax(axis=1), max(DEPTHS))
    gain = np.where(place < 10, 1.0 / np.log2(place + 2.0), 0.0)
    return {f"hit@{k}": float((place < k).mean()) for k in DEPTHS} | {"ndcg@10": float(gain.mean())}


@torch.inference_mode()
def beams(model: Any, users: Users) -> torch.Tensor:
    """Log-probabilities of the prefixes in the beam, best first: float [n, W]."""
    return torch.cat([model._prefix_beam(batch, seen)[1].clone() for batch, seen in users.batches()])


def numbers(text: str) -> list[float]:
    """A comma-separated list of numbers."""
    return [float(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", required=True, help="a SIGMA with prefixes")
    parser.add_argument("--data_path", help="where the dataset lies now")
    parser.add_argument("--users", type=int, default=0, help="test users; 0 = all")
    parser.add_argument("--temperatures", type=numbers, default=[0.5, 0.7, 1.0, 1.4, 2.0])
    parser.add_argument("--beams", type=numbers, default=[0.0, 20.0], help="prefixes in the beam; 0 = all")
    parser.add_argument("--output", type=Path, help="also write the figures as JSON")
    given = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    changes: dict[str, Any] = {"show_progress": False, "state": "WARNING"}
    if given.data_path:
        changes["data_path"] = given.data_path
    config, model, _, _, valid, test = load_data_and_model(given.checkpoint, changes)
    if not getattr(model, "prefixes", None) or not model.prefixes.length:
        parser.error(f"{given.checkpoint} holds no SIGMA with semantic prefixes")
    begin = time.process_time()
    users, others = Users(test, config, given.users), Users(valid, config, _REFERENCE_USERS)
    rows: list[dict[str, Any]] = []
    shapes: list[dict[str, Any]] = []
    bar = Progress("Fuse", len(given.beams) * (1 + 5 * len(given.temperatures)), enabled=True)
    for width in map(int, given.beams):
        model.beam_width = width
        scores = beams(model, others)
        about = {"beam": width or "all"}
        mass = scores.exp()
        held = (mass.cumsum(1) < 0.9 * mass.sum(1, keepdim=True)).sum(1) + 1.0
        shown = {"best prefix's probability": mass[:, 0], "prefixes that hold 90 %": held}
        reference = {space: float(beam_spread(scores, space).mean()) for space in ("logprob", "prob")}
        for space, mean in reference.items():
            shown[f"sigma ({space}, mean {mean:.3g})"] = beam_spread(scores, space, mean)
        for name, values in shown.items():
            spread = torch.quantile(values, torch.tensor(QUANTILES)).tolist()
            shapes.append({**about, "of": name, **dict(zip(map(str, QUANTILES), spread, strict=True))})
        ways = [("fixed_temp", "", 1.0)]
        ways += [("apf", space, value) for space, mean in reference.items() for value in (mean, 1.0)]
        for temperature in given.temperatures:
            model.sharpness, model._catalogue = 1.0 / temperature, None
            for mode, space, value in ways:
                model.mode, model.space, model.sigma_reference = mode, space or "logprob", value
                label = {"mode": mode, "space": space, "sigma over": "" if not space else f"{value:.3g}"}
                rows.append({**about, "temperature": temperature, **label, **accuracy(model, users)})
                bar.advance()
        model.mode, model.sharpness = "top1_prefix", 1.0
        rows.append({**about, "temperature": 1.0, "mode": "top1_prefix", **accuracy(model, users)})
        bar.advance()
    bar.close()
    print(tabulate(rows, headers="keys", floatfmt=".4f"))
    print(tabulate(shapes, headers="keys", floatfmt=".3g"))
    print(f"{len(users.index)} test users, {time.process_time() - begin:.0f} CPU-seconds")
    if given.output:
        given.output.write_text(json.dumps({"accuracy": rows, "distributions": shapes}, indent=1) + "\n")


if __name__ == "__main__":
    main()
