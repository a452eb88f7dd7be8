"""However long the pairs of a batch are, only so many tokens go through the model at once, and it makes no other difference."""

import pytest

pytest.importorskip("torch")

import torch

from promptimal_trainer import batches
from promptimal_trainer.base import load
from promptimal_trainer.batches import Example, share
from promptimal_trainer.distributed import join
from promptimal_trainer.network import Network, backward
from promptimal_trainer.recipe import read_recipe


def example(length: int) -> Example:
    return Example(list(range(5, 5 + length - 3)), [7, 8, 9])


EXAMPLES = [example(length) for length in (4, 6, 9, 30, 30, 40, 90)]


def test_a_pass_holds_a_batch_or_as_many_tokens_as_are_allowed(monkeypatch):
    monkeypatch.setattr(batches, "TOKENS_A_PASS", 64)
    assert [[len(e) for e in part] for part in share(EXAMPLES, 3, 0, 1)] == [[4, 6, 9], [30, 30], [40], [90]]


def test_every_rank_gets_as_many_passes_as_the_others(monkeypatch):
    monkeypatch.setattr(batches, "TOKENS_A_PASS", 64)
    parts = [share(EXAMPLES, 16, rank, 2) for rank in range(2)]
    assert [[[len(e) for e in part] for part in rank] for rank in parts] == [[[4, 9], [30], [90]], [[6, 30], [40], []]]


def test_a_batch_in_many_passes_has_the_gradients_of_one(monkeypatch, recipe, tiny_llama):
    settings = read_recipe(str(recipe()))
    found = []
    for most in (2048, 64):
        monkeypatch.setattr(batches, "TOKENS_A_PASS", most)
        torch.manual_seed(1)
        network = Network(load(str(tiny_llama), torch.float32).model, None, settings, torch.float32)
        for name, parameter in network.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        loss = backward(network, EXAMPLES, settings, join(), torch.amp.GradScaler("cpu", enabled=False))
        found.append((loss, torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-6)
