"""What SORT saves by one sequence per request: 512 candidates at once, and in 512 passes of their own.

    python benchmarks/requests.py [--candidates 512] [--history 50]

Both give the same scores (checked). CPU-seconds per request, medians of interleaved runs, one thread.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch  # noqa: E402

from recbole_sigma.models.sort_network import RequestTransformer  # noqa: E402
from recbole_sigma.settings.ranker_keys import SortKeys  # noqa: E402


def main() -> None:
    """Print both costs and their ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--candidates", type=int, default=512)
    parser.add_argument("--history", type=int, default=50)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    keys = SortKeys()
    net = RequestTransformer(keys, options.history).eval()
    history = torch.randn(1, options.history, keys.sort_size)
    real, profile = torch.ones(1, options.history, dtype=torch.bool), torch.zeros(1, 0, keys.sort_size)
    asked = torch.randn(1, options.candidates, keys.sort_size)

    def together() -> torch.Tensor:
        return net.candidates(net.context(history, real, profile), asked)

    def alone() -> torch.Tensor:
        """As a batch of requests with one candidate each."""
        rows = (part.expand(options.candidates, *part.shape[1:]) for part in (history, real, profile))
        return net.candidates(net.context(*rows), asked[0, :, None])[:, 0][None]

    with torch.inference_mode():
        torch.testing.assert_close(together(), alone(), rtol=1e-4, atol=1e-5)
        spent: dict[str, list[float]] = {"together": [], "alone": []}
        for _ in range(options.runs):
            for name, work in (("together", together), ("alone", alone)):
                begin = time.process_time()
                work()
                spent[name].append(time.process_time() - begin)
    found = {name: statistics.median(seconds) * 1e3 for name, seconds in spent.items()}
    print(f"{options.candidates} candidates behind {options.history} events, CPU-ms per request:")
    print(f"one sequence {found['together']:.1f}, one pass each {found['alone']:.0f}", end=", ")
    print(f"{found['alone'] / found['together']:.0f} times")


if __name__ == "__main__":
    main()
