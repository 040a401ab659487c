"""How long one typed sentence takes, warm: understanding alone, and the whole answer of `recommend`.

    python benchmarks/sentences.py --checkpoint=saved/FILE.safetensors [--data_path=dataset]

One user, one thread, seconds of the processor; the sentences are the shipped labelled ones of the data set.
An answer makes up to three lists: the one asked for, the plain one, and that under the same conditions where
the model reads nothing.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from recbole_sigma.evaluation.tasks.route import load_sentences
from recbole_sigma.recommend.answers import Request
from recbole_sigma.recommend.recommender import Recommender
from recbole_sigma.settings.recipes import properties_dir


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--data_path", default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    moved = {} if options.data_path is None else {"data_path": options.data_path}
    recommender = Recommender.load(options.checkpoint, moved)
    name = str(recommender.config["dataset"])
    parts = load_sentences(properties_dir() / "sentences" / f"{name}.yaml")
    sentences = [row.sentence for rows in parts.values() for row in rows]
    started = time.process_time()
    recommender.understanding.read("warm up")
    first = time.process_time() - started
    history = [recommender.material.tokens[item] for item in np.argsort(-recommender.lexicon.counts)[:6]]
    read, answered, plain = [], [], []
    for _ in range(2):  # the first round fills the caches of masks
        read, answered, plain = [], [], []
        for sentence in sentences:
            started = time.process_time()
            recommender.understanding.read(sentence)
            read.append(time.process_time() - started)
            started = time.process_time()
            recommender.answer([Request(history=history, instruction=sentence)], 10)
            answered.append(time.process_time() - started)
            started = time.process_time()
            recommender.answer([Request(history=history)], 10)
            plain.append(time.process_time() - started)
    print(f"{name}: {recommender.lexicon.n - 1:,} items, {len(sentences)} sentences, first {first:.1f} s")
    for label, seconds in (("understanding", read), ("answer", answered), ("plain list", plain)):
        ms = 1000 * np.array(seconds)
        middle, slow = np.quantile(ms, [0.5, 0.95])
        print(f"{label:14} median {middle:6.1f} ms, 95 % {slow:6.1f} ms, most {ms.max():6.1f} ms")


if __name__ == "__main__":
    main()
