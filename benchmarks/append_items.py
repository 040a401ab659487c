"""How well `export --append` places items that it has only the words of.

    python benchmarks/append_items.py --items=FOLDER     # what `export` wrote

A tenth of the items is held out, placed from its text among the others, and compared with its own codes.
"""

from __future__ import annotations

import argparse
from dataclasses import fields

import numpy as np

from recbole_sigma.sharing.items import ItemRows, from_text, nearest_codes, read_items


def part(rows: ItemRows, keep: np.ndarray) -> ItemRows:
    found = {}
    for field in fields(rows):
        value = getattr(rows, field.name)
        found[field.name] = value[keep] if isinstance(value, np.ndarray) else [value[i] for i in keep]
    return ItemRows(**found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows, manifest = read_items(options.items)
    held = np.random.default_rng(options.seed).random(len(rows.names)) < 0.1
    known, new = part(rows, np.flatnonzero(~held)), part(rows, np.flatnonzero(held))
    levels = manifest["quantized_levels"]
    middle = np.repeat(known.sources.mean(axis=0, keepdims=True), len(new.names), axis=0)
    ways = {
        "from its words": from_text(known.texts, known.sources, new.texts),
        "from its own vector": new.sources,
        "from the mean of all": middle,
    }
    print(f"{len(new.names)} of {len(rows.names)} items held out; share with their own first code")
    for name, vectors in ways.items():
        codes = nearest_codes(known, vectors, levels)
        print(f"{name:22} {(codes[:, 0] == new.codes[:, 0]).mean():.3f}")


if __name__ == "__main__":
    main()
