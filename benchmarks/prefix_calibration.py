"""How far a SIGMA's probabilities of first-level codes can be believed.

    python benchmarks/prefix_calibration.py saved/SIGMA-a.safetensors saved/SIGMA-b.safetensors

Of every test row P(code) is the sum over the items of the code, seen ones included. Printed: the expected
calibration error of the most probable code (ten bins of equal width), how often it is right, and -log P
of the code of the target.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch  # noqa: E402

from recbole_sigma.quick_start import load_data_and_model  # noqa: E402

BINS = 10


def calibration_error(confidence: torch.Tensor, right: torch.Tensor) -> float:
    """Mean distance of confidence and accuracy, both float [n], over bins of equal width by their rows."""
    place = (confidence * BINS).long().clamp(max=BINS - 1)
    gap = torch.zeros(BINS).index_add(0, place, right - confidence)
    return float(gap.abs().sum() / len(confidence))


def main() -> None:
    """Print a line per checkpoint."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("checkpoints", nargs="+")
    for path in parser.parse_args().checkpoints:
        config, model, _, _, _, test = load_data_and_model(path)
        model.eval()
        codes = model.item_codes.codes[:, 0]
        confidence, right, loss = [], [], []
        for interaction, *_ in test:
            share = model.score_all(model.on_device(interaction, config["device"])).exp().cpu()
            prefix = torch.zeros(len(share), int(codes.max()) + 1).index_add(1, codes, share)
            target = codes[interaction[model.ITEM_ID]]
            best, chosen = prefix.max(dim=1)
            confidence.append(best)
            right.append((chosen == target).float())
            loss.append(-prefix.gather(1, target[:, None])[:, 0].clamp_min(1e-12).log())
        error = calibration_error(torch.cat(confidence), torch.cat(right))
        found = {"first code right": torch.cat(right), "-log P": torch.cat(loss)}
        told = ", ".join(f"{name} {float(values.mean()):.4f}" for name, values in found.items())
        print(f"{Path(path).name}: calibration error {error:.4f}, {told}")


if __name__ == "__main__":
    main()
