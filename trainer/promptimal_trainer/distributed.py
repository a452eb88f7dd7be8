"""Several processes, one run: torchrun or accelerate start them, FSDP shares out the weights; alone, everything here does nothing.

    torchrun --nproc-per-node 2 -m promptimal_trainer.command finetune --recipe llama2-7b --out runs/mine

Each rank keeps a part of every layer and asks the others for the rest when it gets there (Zhao et al., 2023, https://arxiv.org/abs/2304.11277).
"""

import os
import sys
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


class World(NamedTuple):
    """This process's number, how many there are, and where it computes."""

    rank: int
    size: int
    device: torch.device

    def say(self, text: str) -> None:
        """A line on standard error, of the first process alone."""
        if self.rank == 0:
            print(text, file=sys.stderr)


def join() -> World:
    """The world that torchrun's environment (RANK, LOCAL_RANK, WORLD_SIZE) tells of, joined; a world of one without it."""
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if size > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if cuda else "gloo")
    return World(rank, size, device)


def leave() -> None:
    """Take leave of the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def settle(network: torch.nn.Module, layers: Any, world: World) -> None:
    """Bring a network to where it is computed: to the device, or layer by layer shared out among the ranks.

    A base in 4 bits stays whole on every rank: it is small, and FSDP cannot cut its blocks. Then only the adapter is shared out.
    """
    if world.size == 1:
        network.to(world.device)
        return
    mesh = init_device_mesh(world.device.type, (world.size,))
    whole = {p for p in network.parameters() if not p.is_floating_point()}
    for module in (*layers, network):
        fully_shard(module, mesh=mesh, ignored_params=whole)


def total(numbers: list[float], world: World) -> list[float]:
    """Each number summed over the ranks; in float64."""
    if world.size == 1:
        return numbers
    tensor = torch.tensor(numbers, dtype=torch.float64, device=world.device)
    dist.all_reduce(tensor)
    return list(tensor.tolist())


def whole(tensor: Any) -> Any:
    """All of a tensor, in main memory, on every rank; anything else as it is. All ranks must call it."""
    if isinstance(tensor, DTensor):
        tensor = tensor.full_tensor()
    return tensor.detach().cpu() if isinstance(tensor, torch.Tensor) else tensor


def part(tensor: Any, like: torch.Tensor) -> Any:
    """The other way round: a whole tensor where and as `like` is kept."""
    if isinstance(like, DTensor) and isinstance(tensor, torch.Tensor) and tensor.shape == like.shape:
        return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)
    return tensor
