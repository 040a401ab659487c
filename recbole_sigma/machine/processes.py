"""This process among several: who it is, and the few things that processes tell each other.

torch.distributed is set up from the environment that ``torchrun`` and our own launcher give (RANK,
LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT): nccl where each process has a GPU, gloo otherwise. Only
tensors are exchanged; nothing is pickled.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import socket
import struct
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from recbole_sigma.values import UserError

# Rank 0 may prepare items for hours while the others wait; a process that died is noticed by its closed
# connection and by the launcher, not by this limit.
PATIENCE = timedelta(hours=24)
MEETING = timedelta(minutes=10)  # until all processes of all machines must be there
_SIOCGIFADDR = 0x8915


@dataclass(frozen=True)
class World:
    """This process among several.

    Attributes:
        rank: 0..size-1 over all machines.
        local_rank: 0.. on this machine.
        size: number of processes.
    """

    rank: int = 0
    local_rank: int = 0
    size: int = 1

    @property
    def main(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    @property
    def several(self) -> bool:
        """Whether there are other processes."""
        return self.size > 1


def current() -> World:
    """The world as the environment describes it; `World()` for a process of its own.

    Raises:
        UserError: the environment is incomplete or contradicts itself.
    """
    if int(os.environ.get("WORLD_SIZE", "1") or 1) <= 1:
        return World()
    missing = [
        name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ
    ]
    if missing:
        raise UserError(
            f"WORLD_SIZE is set in the environment but {', '.join(missing)} is not: start with torchrun or "
            "with --nproc, or unset WORLD_SIZE"
        )
    world = World(int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"]), int(os.environ["WORLD_SIZE"]))
    if not 0 <= world.rank < world.size:
        raise UserError(
            f"RANK {world.rank} is outside WORLD_SIZE {world.size}: check --group_offset, --nproc and "
            "--world_size on every machine"
        )
    return world


def join(device: torch.device) -> World:
    """Connect to the other processes (once); a process of its own connects to nobody.

    Raises:
        UserError: they did not all meet in ten minutes, or cannot reach each other.
    """
    world = current()
    if world.several and not dist.is_initialized():
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        interface = interface_towards(os.environ["MASTER_ADDR"])
        if interface is not None:  # else gloo takes the address of the machine's name, often 127.0.0.1
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        try:
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=MEETING)
        except RuntimeError as error:
            raise UserError(
                f"process {world.rank} of {world.size} could not meet the others at {place}"
                f" ({str(error).strip().splitlines()[0]}): start the command on every machine with the same"
                " --ip, --port and --world_size, open the port, or name the network interface in the"
                " environment variable GLOO_SOCKET_IFNAME"
            ) from error
        dist.distributed_c10d._set_pg_timeout(PATIENCE)
        atexit.register(leave)
    return world


def interface_towards(address: str) -> str | None:
    """Name of the network interface that leads to another machine; None where that is unknown, or this
    machine itself under a local name.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))  # sends nothing; the kernel chooses a route
            own = socket.inet_aton(probe.getsockname()[0])
        except OSError:
            return None
        for _, name in () if own[0] == 127 else socket.if_nameindex():
            try:
                found = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", name.encode()))
            except OSError:  # an interface without an address, or a system without this call
                continue
            if found[20:24] == own:
                return name
    return None


def leave() -> None:
    """End the connection, if there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def _device() -> torch.device:
    return torch.device("cuda", current().local_rank) if dist.get_backend() == "nccl" else torch.device("cpu")


def gather(payload: bytes) -> list[bytes]:
    """The bytes of every process, in order of rank; collective."""
    world = current()
    if not world.several:
        return [payload]
    device = _device()
    sizes = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(world.size)]
    dist.all_gather(sizes, torch.tensor([len(payload)], device=device))
    longest = max(int(size) for size in sizes)
    mine = torch.zeros(longest, dtype=torch.uint8, device=device)
    mine[: len(payload)] = (
        torch.frombuffer(bytearray(payload), dtype=torch.uint8).to(device) if payload else 0
    )
    parts = [torch.empty_like(mine) for _ in range(world.size)]
    dist.all_gather(parts, mine)
    return [part[: int(size)].cpu().numpy().tobytes() for part, size in zip(parts, sizes, strict=True)]


def broadcast(text: str) -> str:
    """Rank 0's text, in every process; collective."""
    return gather(text.encode() if current().main else b"")[0].decode()


def mean(values: list[float]) -> list[float]:
    """Mean over processes of each number; collective."""
    world = current()
    if not world.several:
        return values
    total = torch.tensor(values, dtype=torch.float64, device=_device())
    dist.all_reduce(total)
    return (total / world.size).tolist()


def share(amount: float) -> float:
    """What this process counts in a mean over processes of weighted means, so that it is the mean over all
    that they have: the number of processes times its part of the whole; collective.

    Args:
        amount: how much the mean of this process is a mean of, such as predictions.
    """
    return amount / mean([amount])[0]


def same_everywhere(tensors: dict[str, Tensor]) -> None:
    """Overwrite tensors in place with rank 0's; collective.

    Args:
        tensors: a ``state_dict``, or the buffers of a model.
    """
    if not current().several:
        return
    device = _device()
    with torch.no_grad():
        for value in tensors.values():
            moved = value.detach().to(device).contiguous()
            dist.broadcast(moved, src=0)
            value.copy_(moved)


def wait() -> None:
    """Wait until every process is here; collective."""
    if current().several:
        dist.barrier()
