"""The built wheel, installed where no checkout is in sight: complete, importable, runnable."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("recbole_sigma", "dataset_adapters", "properties")
FILES = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the sources: building in the checkout would leave build/ and egg-info there."""
    base = tmp_path_factory.mktemp("wheel")
    for folder in SOURCES:
        shutil.copytree(ROOT / folder, base / "src" / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, base / "src" / name)
    pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", base, base / "src")
    (built,) = base.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a new environment that has the wheel, and borrows the other packages of this one.

    The borrowed folder is named in a .pth file. Python reads no .pth files inside a folder added that way, so
    an editable install of the checkout in this environment has no effect there.
    """
    env = tmp_path_factory.mktemp("installed") / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", env], check=True)
    pip("--python", env / "bin" / "python", "install", "--no-deps", "--no-index", wheel)
    (site,) = env.glob("lib/python*/site-packages")
    borrowed = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (site / "borrowed.pth").write_text("\n".join(borrowed) + "\n", encoding="utf-8")
    return env / "bin"


def pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def run(command: list[str | Path], cwd: Path, expect: int = 0) -> str:
    """Output of a command that knows neither the checkout nor this process's Python settings."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    env |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == expect, f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def test_wheel_holds_every_module_and_recipe(wheel: Path) -> None:
    expected = set()
    for folder in SOURCES:
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".yaml", ".json", ".html", ".css", ".js"):
                name = path.relative_to(ROOT).as_posix()
                expected.add(f"recbole_sigma/{name}" if folder == "properties" else name)
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert sorted(expected - names) == []
    assert sorted(names - expected) == [], "the wheel carries files that are no source of the project"


def test_imports_come_from_the_installed_wheel(installed: Path, tmp_path: Path) -> None:
    code = """
import sys, pathlib, importlib.metadata as metadata
import recbole_sigma, dataset_adapters
from recbole_sigma.settings.recipes import properties_dir
site = pathlib.Path(sys.prefix).resolve() / "lib"
for place in (recbole_sigma.__file__, dataset_adapters.__file__, properties_dir()):
    assert pathlib.Path(place).resolve().is_relative_to(site), place
assert (pathlib.Path(properties_dir()) / "overall.yaml").is_file()
assert (pathlib.Path(properties_dir()) / "model" / "SIGMA.yaml").is_file()
assert metadata.version("recbole-sigma") == recbole_sigma.__version__
checkout = pathlib.Path(sys.argv[1])
assert checkout not in map(pathlib.Path, sys.path)
rooms = [checkout / name for name in ("recbole_sigma", "dataset_adapters")]
for module in list(sys.modules.values()):
    place = pathlib.Path(getattr(module, "__file__", None) or "")
    assert not any(place.is_relative_to(room) for room in rooms), place
"""
    run([installed / "python", "-c", code, ROOT], cwd=tmp_path)


def test_console_script_shows_its_help(installed: Path, tmp_path: Path) -> None:
    text = run([installed / "recbole-sigma", "--help"], cwd=tmp_path)
    for word in ("--model", "benchmark", "demo"):
        assert word in text


def test_adapters_run_as_a_module(installed: Path, tmp_path: Path) -> None:
    assert "amazon2014" in run([installed / "python", "-m", "dataset_adapters", "list"], cwd=tmp_path)


@pytest.fixture
def small_data(tmp_path: Path) -> Path:
    """A folder with the dataset `small`: 24 users who walk a ring of 12 titled items."""
    folder = tmp_path / "data" / "small"
    folder.mkdir(parents=True)
    colours = ("red", "green", "blue", "white")
    items = [f"i{i}\t{colours[i % 4]} thing {i}\t{colours[i % 4]}" for i in range(12)]
    events = [f"u{u}\ti{(u + step) % 12}\t{1000 * u + step}" for u in range(24) for step in range(8)]
    tables = {"item": ["item_id:token\ttitle:token_seq\tkind:token", *items]}
    tables["inter"] = ["user_id:token\titem_id:token\ttimestamp:float", *events]
    for suffix, lines in tables.items():
        (folder / f"small.{suffix}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "small.yaml").write_text(
        f"data_path: {folder.parent}\n"
        "load_col: {inter: [user_id, item_id, timestamp], item: [item_id, title, kind]}\n"
        "text_fields: [title]\ncategory_field: kind\n"
        "topk: [1, 5]\nvalid_metric: NDCG@5\nepochs: 1\nstopping_step: 1\n"
    )
    return tmp_path


def test_a_small_training_run(installed: Path, small_data: Path) -> None:
    options = ["--model=SIGMA", "--dataset=small", "--config_files=small.yaml"]
    text = run([installed / "recbole-sigma", *options], cwd=small_data)
    assert "ndcg@5" in text.lower()
    for kind in ("*.safetensors", "*.json"):
        assert list((small_data / "saved").rglob(kind)), f"no {kind} was saved"
