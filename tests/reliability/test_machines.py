"""Processes that are started by commands: on one machine, by torchrun, on two machines."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from recbole_sigma.machine import processes as distributed
from recbole_sigma.values import UserError
from tests.reliability.conftest import free_port


@pytest.mark.slow
@pytest.mark.parametrize("how", ["nproc", "torchrun", "two machines"])
def test_the_command_line_with_two_processes(how, planted, scratch: Path) -> None:
    words = [
        "--model=BPR",
        "--dataset=planted",
        f"--data_path={planted['data_path']}",
        "--load_col={inter: [user_id, item_id, timestamp]}",
        "--epochs=1",
        "--embedding_size=8",
        "--quiet",
    ]
    module = [sys.executable, "-m", "recbole_sigma"]
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node=2",
        f"--master_port={free_port()}",
    ]
    both = [f"--port={free_port()}", "--world_size=2"]
    commands = {
        "nproc": [[*module, *words, "--nproc=2"]],
        "torchrun": [[*torchrun, "-m", "recbole_sigma", *words]],
        "two machines": [[*module, *words, *both], [*module, *words, *both, "--group_offset=1"]],
    }[how]
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for command in commands
    ]
    found = [process.communicate(timeout=300) for process in started]
    assert all(process.returncode == 0 for process in started), found
    assert "HR@10" in found[0][0]
    assert len(list((scratch / "saved" / "results").glob("*.json"))) == 1
    assert len(list((scratch / "log").rglob("*.log"))) == 1


@pytest.fixture
def two_networks() -> Iterator[list[list[str]]]:
    """Two network namespaces joined by a cable: how to start a command in each; 10.77.0.1 is the first."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need the command ip and root")
    names = [f"rs{os.getpid()}{side}" for side in "ab"]
    calls = [
        *(["netns", "add", name] for name in names),
        ["link", "add", names[0], "type", "veth", "peer", "name", names[1]],
        *(["link", "set", name, "netns", name] for name in names),
        *(
            ["-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", name]
            for number, name in enumerate(names, start=1)
        ),
        *(["-n", name, "link", "set", device, "up"] for name in names for device in (name, "lo")),
    ]
    try:
        for call in calls:
            made = subprocess.run(["ip", *call], capture_output=True, text=True, check=False)
            if made.returncode:
                pytest.skip(f"no network namespaces here: ip {' '.join(call)}: {made.stderr.strip()}")
        yield [["ip", "netns", "exec", name] for name in names]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


@pytest.mark.slow
def test_two_machines_over_a_network(two_networks, planted, scratch: Path) -> None:
    """Each process in a network of its own, where the machine's name leads nowhere."""
    words = [sys.executable, "-m", "recbole_sigma", "--model=BPR", "--dataset=planted", "--epochs=1"]
    words += [f"--data_path={planted['data_path']}", "--load_col={inter: [user_id, item_id, timestamp]}"]
    words += ["--embedding_size=8", "--quiet", "--nproc=1", "--world_size=2", "--ip=10.77.0.1", "--port=5678"]
    started = [
        subprocess.Popen(
            [*inside, *words, f"--group_offset={rank}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, inside in enumerate(two_networks)
    ]
    found = [process.communicate(timeout=500) for process in started]
    assert [process.returncode for process in started] == [0, 0], found
    assert "HR@10" in found[0][0]
    assert len(list((scratch / "saved" / "results").glob("*.json"))) == 1


def test_processes_that_do_not_meet(imported, planted, monkeypatch) -> None:
    for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    monkeypatch.setattr(distributed, "MEETING", timedelta(seconds=1))
    with pytest.raises(UserError, match="process 0 of 2 could not meet the others at localhost:"):
        distributed.join(torch.device("cpu"))


def test_the_interface_towards_another_machine() -> None:
    assert distributed.interface_towards("127.0.0.1") is None  # this machine
    assert distributed.interface_towards("no.such.name.invalid") is None
    found = distributed.interface_towards("192.0.2.1")  # an address for examples; nothing is sent
    assert found is None or found in {name for _, name in socket.if_nameindex()}
