"""What a run needs to go on where it was: the trained weights and the optimizer, whole, whatever the number of ranks.

Nothing random is kept: the number of an update decides what is drawn in it. A file appears whole or not at all.
"""

import os
from pathlib import Path
from typing import Any

import torch

from promptimal_trainer.distributed import World, part, whole
from promptimal_trainer.errors import TrainError

NAME = "checkpoint.pt"


class BadCheckpoint(TrainError):
    """A checkpoint that cannot be written or gone on from; the message says what to do."""


def trained(network: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The parameters that are trained, by name."""
    return {name: p for name, p in network.named_parameters() if p.requires_grad}


def save(out: Path, world: World, network: torch.nn.Module, optimizer: torch.optim.Optimizer, more: dict[str, Any]) -> None:
    """Write a checkpoint with `more`, plain values, in it; all ranks must call it, the first one writes.

    Raises BadCheckpoint where it cannot be written; what was there before is still there.
    """
    moments = optimizer.state_dict()["state"]
    state = {
        **more,
        "weights": {name: whole(p) for name, p in trained(network).items()},
        "optimizer": {number: {name: whole(value) for name, value in values.items()} for number, values in moments.items()},
    }
    if world.rank:
        return
    temporary = out / f".{NAME}.{os.getpid()}"
    try:
        torch.save(state, temporary)
        temporary.replace(out / NAME)
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "the disk is full, or a file may not be as large"
        raise BadCheckpoint(f"{out / NAME} cannot be written: {reason}; {kept(out)}. Make room, and run the same command again") from error
    finally:
        temporary.unlink(missing_ok=True)


def load(out: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The checkpoint of a run of this identity, or None where there is none.

    Raises BadCheckpoint where it is another run's, or damaged.
    """
    path = out / NAME
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        known = state["identity"]
    except Exception as error:  # damage shows in many ways
        raise BadCheckpoint(f"{path} is damaged, or of another version: delete it to start anew") from error
    if known != identity:
        other = [key for key in identity if known.get(key) != identity[key]]
        raise BadCheckpoint(f"{path} is of a run with another {' and '.join(other)}: give another --out, or delete it to start anew")
    return state


def restore(state: dict[str, Any], network: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Set weights and optimizer to what a checkpoint holds."""
    parameters = trained(network)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(part(state["weights"][name], parameter))
    order = [p for group in optimizer.param_groups for p in group["params"]]
    moments = {n: {name: part(value, order[n]) for name, value in values.items()} for n, values in state["optimizer"].items()}
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})


def kept(out: Path) -> str:
    """What is there to go on from, for a message."""
    return f"the last good checkpoint is kept in {out / NAME}" if (out / NAME).exists() else "there is no checkpoint yet"
