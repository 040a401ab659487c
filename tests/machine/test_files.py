import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from recbole_sigma.benchmark.records import write_json
from recbole_sigma.grounding.vector_file import store_vectors
from recbole_sigma.machine import clock
from recbole_sigma.machine import files as artifacts
from recbole_sigma.machine.files import ArtifactStore, fingerprint, write_atomically
from recbole_sigma.values import UserError


def test_fingerprints_follow_every_part():
    base = {"a": np.arange(4), "b": "text", "c": {"x": 1}}
    assert fingerprint(**base) == fingerprint(**dict(reversed(list(base.items()))))
    for change in (
        dict(a=np.arange(5)),
        dict(a=np.arange(4, dtype=np.int32)),
        dict(b="texT"),
        dict(c={"x": 2}),
    ):
        assert fingerprint(**{**base, **change}) != fingerprint(**base)
    assert fingerprint(a=np.zeros((2, 3))) != fingerprint(a=np.zeros((3, 2)))
    assert fingerprint(ab="c") != fingerprint(a="bc")


def test_what_is_saved_is_loaded(tmp_path):
    store = ArtifactStore(tmp_path / "new" / "folder")
    tensors = {"x": torch.randn(3, 2), "n": torch.arange(4), "b": torch.randn(2).to(torch.bfloat16)}
    assert store.load("items", "k" * 64) is None
    store.save("items", "k" * 64, tensors, {"note": "größe"})
    loaded, header = store.load("items", "k" * 64)
    assert header == {"note": "größe"} and all(
        torch.equal(loaded[name], value) for name, value in tensors.items()
    )


def test_what_an_artifact_took_is_counted_where_it_is_read(tmp_path):
    """And 0 for one that does not say, as earlier versions wrote them."""
    store = ArtifactStore(tmp_path)
    for took in (50.0, 0.0):
        store.save("items", "a" * 64, {"x": torch.ones(2)}, {"k": 1}, took)
        before = clock.cpu_seconds(), time.process_time()
        _, header = store.load("items", "a" * 64)
        after = clock.cpu_seconds(), time.process_time()
        assert header == {"k": 1}
        worked = after[1] - before[1]
        assert after[0] - before[0] == pytest.approx(took, abs=2 * worked + 1e-3)


def test_a_file_under_another_fingerprint_is_refused(tmp_path):
    store = ArtifactStore(tmp_path)
    path = store.save("items", "a" * 64, {"x": torch.ones(2)}, {})
    os.replace(path, store.path("items", "b" * 64))
    with pytest.raises(UserError, match="another preparation.*delete"):
        store.load("items", "b" * 64)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "pickle"])
def test_damaged_files_are_refused_by_name(tmp_path, damage):
    store = ArtifactStore(tmp_path)
    path = store.save("items", "a" * 64, {"x": torch.arange(8.0)}, {"k": 1})
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[-3] ^= 4
    elif damage == "cut":
        del content[-5:]
    elif damage == "empty":
        content.clear()
    else:
        torch.save({"x": 1}, path)
        content = bytearray(path.read_bytes())
    path.write_bytes(bytes(content))
    with pytest.raises(UserError, match="delete the file") as error:
        store.load("items", "a" * 64)
    assert path.name in str(error.value)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "f"
    write_atomically(path, b"old")
    monkeypatch.setattr(
        os, "replace", lambda *a: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(OSError):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["f"]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_new_files_are_for_whom_the_umask_says(tmp_path, mask):
    """Also those that safetensors writes, which makes them for their owner alone."""
    before = os.umask(mask)
    try:
        write_atomically(tmp_path / "bytes", b"x")
        made = [tmp_path / "bytes", ArtifactStore(tmp_path).save("items", "a" * 64, {"x": torch.ones(1)}, {})]
        store_vectors(tmp_path / "v.npy", 2, [(np.arange(2), np.ones((2, 3), np.float32))])
    finally:
        os.umask(before)
    for path in (*made, tmp_path / "v.npy"):
        assert path.stat().st_mode & 0o777 == 0o666 & ~mask, path.name


def test_an_unwritable_folder_gets_a_sentence(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(UserError, match="artifact_dir"):
        ArtifactStore(blocked / "sub").save("items", "a" * 64, {"x": torch.ones(1)}, {})


def test_what_a_killed_writer_left_goes_with_the_next_write(tmp_path):
    """Of the first write into a folder; files of living writers and of other machines stay."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    name = ".f.{host}.{process}.0123abcd.tmp"
    host = artifacts._HOST
    dead = tmp_path / name.format(host=host, process=gone.pid)
    alive = tmp_path / name.format(host=host, process=os.getpid())
    elsewhere = tmp_path / name.format(host="another-machine", process=gone.pid)
    for path in (dead, alive, elsewhere):
        path.write_bytes(b"half")
    write_atomically(tmp_path / "f", b"new")
    assert sorted(tmp_path.iterdir()) == sorted([alive, elsewhere, tmp_path / "f"])


def test_no_file_takes_the_place_of_a_device_or_a_pipe(tmp_path):
    """`--output=/dev/null`, as root, would take /dev/null away from the whole machine."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "stdout").symlink_to("/proc/self/fd/1")
    (tmp_path / "null").symlink_to("/dev/null")
    before = {path: path.lstat().st_ino for path in tmp_path.iterdir()}
    for path in before:
        with pytest.raises(UserError, match="is a device or a pipe, which no file can replace"):
            write_atomically(path, b"x")
        with pytest.raises(UserError, match="is a device or a pipe"):
            write_json(path, {})
    assert {path: path.lstat().st_ino for path in tmp_path.iterdir()} == before
