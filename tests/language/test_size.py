"""The shape of a real model on a plain machine: slow is fine, more than 12 GiB is not."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]


def figures(*arguments):
    run = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "lm_step.py"), *arguments],
        capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return {row.split()[0]: float(row.split()[1].replace(",", "")) for row in run.stdout.splitlines()}


def test_the_script_trains_and_decodes_a_small_shape():
    found = figures("--steps", "1", "--tokens", "64", "--checkpointing")
    assert 0 < found["trained"] < 0.1 * found["parameters"]
    assert found["train_tokens_per_s"] > 0 and found["prompt_users_per_s"] > 0
    assert found["decode_items_per_s"] == pytest.approx(10 * found["decode_users_per_s"], rel=0.01)
    assert found["decode_tokens_per_s"] > 64 * found["decode_users_per_s"]  # the prompt and the beam


@pytest.mark.slow
@pytest.mark.timeout(3600)  # minutes on an idle core
@pytest.mark.skipif(psutil.virtual_memory().available < 8 * 2**30, reason="needs 8 GiB of free memory")
def test_600m_parameters_with_lora_train_a_row_of_512_under_12_gib():
    found = figures(
        "--shape",
        "qwen3-0.6b",
        "--rows",
        "1",
        "--tokens",
        "512",
        "--steps",
        "1",
        "--device",
        "cpu",
        "--train-only",
    )
    assert found["parameters"] > 590e6
    assert found["peak_memory_gib"] < 12
