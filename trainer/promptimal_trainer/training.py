"""The training loop: weight updates, held-out scores after each epoch, checkpoints to go on from."""

import math
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from promptimal_trainer import checkpoint, memory
from promptimal_trainer.batches import Example, updates
from promptimal_trainer.distributed import World, total, whole
from promptimal_trainer.errors import TrainError
from promptimal_trainer.interrupt import watched
from promptimal_trainer.network import Network, Scores, backward, held_out, make_optimizer, rate
from promptimal_trainer.recipe import Recipe

_SAVE_SECONDS = 120


class Diverged(TrainError):
    """A loss that is no number any more; the message says what to try."""


@dataclass
class Progress:
    """How far a run has come; saved with every checkpoint."""

    step: int = 0
    scores: list[Scores] = field(default_factory=list)
    log: list[dict[str, Any]] = field(default_factory=list)


class Training:
    """The loop: updates, scores after each epoch, checkpoints."""

    def __init__(
        self, recipe: Recipe, network: Network, train: list[Example], held: list[Example], world: World, out: Path, identity: dict[str, Any]
    ) -> None:
        self.recipe, self.network, self.train, self.held, self.world, self.out = recipe, network, train, held, world, out
        self.identity = identity
        self.progress = Progress()
        self.steps = recipe.epochs * math.ceil(math.ceil(len(train) / recipe.batch) / recipe.accumulate)
        self.optimizer = make_optimizer(network, recipe)
        # Gradients that would vanish in float16 are scaled up; the other types need none of it.
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=network.precision == torch.float16)

    def resume(self) -> None:
        """Go on from a checkpoint in the output directory, if there is one."""
        if state := checkpoint.load(self.out, self.identity):
            checkpoint.restore(state, self.network, self.optimizer)
            self.scaler.load_state_dict(state["scaler"])
            self.progress = Progress(state["step"], [Scores(**score) for score in state["scores"]], state["log"])
            self.world.say(f"going on from step {self.progress.step} of {self.steps}")

    def run(self) -> float:
        """Train to the end; tokens a second. Raises KeyboardInterrupt, with the work saved, when a stop was asked for."""
        self.out.mkdir(parents=True, exist_ok=True)
        progress, step, tokens, started = self.progress, 0, 0, time.monotonic()
        saved = started
        bar = tqdm(total=self.steps, initial=progress.step, desc="fine-tuning", unit="step", disable=self.world.rank > 0)
        with bar, watched(self.world.say) as interruption:
            if not progress.scores:
                progress.scores.append(self._score())
                self._save_if(interruption.asked, False)
            for epoch in range(self.recipe.epochs):
                for examples in updates(self.train, self.recipe, epoch):
                    step += 1
                    if step <= progress.step:
                        continue
                    loss = self.update(examples, step)
                    progress.log.append({"step": step, "loss": round(loss, 4)})
                    progress.step = step
                    tokens += sum(map(len, examples))
                    bar.update()
                    bar.set_postfix(loss=f"{loss:.3f}", held=f"{progress.scores[-1].loss:.3f}")
                    if self._save_if(interruption.asked, time.monotonic() - saved > _SAVE_SECONDS):
                        saved = time.monotonic()
                        memory.give_back()
                if len(progress.scores) == epoch + 1:
                    progress.scores.append(self._score())
                    progress.log.append({"epoch": epoch + 1, "held_out": progress.scores[-1]._asdict()})
                    self._save_if(interruption.asked, True)
        return tokens / max(time.monotonic() - started, 1e-9)

    def _save_if(self, asked: bool, due: bool) -> bool:
        """Save where a checkpoint is due or a stop was asked for, on any rank; whether it did. Raises KeyboardInterrupt for the latter."""
        asked_by, due_by = total([asked, due], self.world)
        if asked_by or due_by:
            self._save()
        if asked_by:
            self.world.say(f"saved after step {self.progress.step} of {self.steps}")
            raise KeyboardInterrupt
        return bool(due_by)

    def update(self, examples: list[Example], step: int) -> float:
        """One weight update; its loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * rate(step - 1, self.steps, self.recipe)
        torch.manual_seed(random.Random(f"{self.recipe.seed}/{step}/{self.world.rank}").getrandbits(63))  # the drop-out of this update
        (loss,) = total([backward(self.network, examples, self.recipe, self.world, self.scaler)], self.world)
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(checkpoint.trained(self.network).values(), self.recipe.clip)
        self._check(math.isfinite(loss) and (self.scaler.is_enabled() or math.isfinite(whole(norm))))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return loss

    def _score(self) -> Scores:
        scores = held_out(self.network, self.held, self.recipe, self.world)
        self._check(math.isfinite(scores.loss))
        return scores

    def _check(self, finite: bool) -> None:
        if not finite:
            raise Diverged(
                f"after {self.progress.step} updates the loss, or its gradient, is no number any more; {checkpoint.kept(self.out)}. "
                'Start anew with a lower lr or precision = "float32", and another --out'
            )

    def _save(self) -> None:
        progress = self.progress
        scores = [score._asdict() for score in progress.scores]
        more = {"identity": self.identity, "step": progress.step, "scores": scores, "log": progress.log, "scaler": self.scaler.state_dict()}
        checkpoint.save(self.out, self.world, self.network, self.optimizer, more)
