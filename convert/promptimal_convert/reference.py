"""What a model should compute: a forward pass in NumPy, straight from its folder and adapter, one layer in memory at a time.

It knows nothing of GGUF. The weights keep transformers' names and layouts and the adapter stays beside them, as in training, so that a
mistake in renaming, reordering, merging or quantizing shows as a difference.
"""

from collections.abc import Callable

import numpy as np

from promptimal_convert.adapter import Adapter
from promptimal_convert.architecture import Hyperparameters, hyperparameters, rope_factors
from promptimal_convert.checkpoint import BadCheckpoint, Checkpoint

_ROWS = 1 << 14
"""Rows of the output matrix that are in memory at a time."""


def logits(checkpoint: Checkpoint, adapter: Adapter | None, texts: list[list[int]]) -> list[np.ndarray]:
    """For each list of token numbers, the logits of what follows each token, float32 of shape (tokens, vocabulary)."""
    model = hyperparameters(checkpoint.config, checkpoint.path)
    read = _Reader(checkpoint, adapter)
    states = [read.embed("model.embed_tokens", tokens) for tokens in texts]
    turns = [_rotations(model, len(tokens)) for tokens in texts]
    for layer in range(model.layers):
        states = _layer(read.within(f"model.layers.{layer}."), model, states, turns)
    norm = read.whole("model.norm.weight")
    ends = np.concatenate([_normed(state, norm, model.epsilon) for state in states])
    name = "model.embed_tokens" if model.tied else "lm_head"
    out = read.outputs(name, ends, model.words)
    return np.split(out, np.cumsum([len(tokens) for tokens in texts])[:-1])


class _Reader:
    """Applies weights, each with its adapter's change beside it; `prefix` is put before every name."""

    def __init__(self, checkpoint: Checkpoint, adapter: Adapter | None, prefix: str = "") -> None:
        self.checkpoint, self.adapter, self.prefix = checkpoint, adapter, prefix

    def within(self, prefix: str) -> "_Reader":
        return _Reader(self.checkpoint, self.adapter, prefix)

    def whole(self, name: str) -> np.ndarray:
        stored = self.checkpoint.weights.get(self.prefix + name)
        if stored is None:
            raise BadCheckpoint(f"{self.checkpoint.path}: {self.prefix + name} is missing")
        return stored.rows(0, stored.shape[0])

    def linear(self, name: str) -> Callable[[np.ndarray], np.ndarray]:
        """The linear map `name`: x → x Wᵀ + scale · (x Aᵀ) Bᵀ + bias."""
        weight = self.whole(f"{name}.weight")
        bias = self.whole(f"{name}.bias") if f"{self.prefix}{name}.bias" in self.checkpoint.weights else np.float32(0)

        def apply(x: np.ndarray) -> np.ndarray:
            y: np.ndarray = x @ weight.T + bias
            return y + self.change(self.prefix + name, x)

        return apply

    def change(self, name: str, x: np.ndarray) -> np.ndarray | np.float32:
        """What the adapter adds to the linear map `name` of x."""
        delta = self.adapter.deltas.get(name) if self.adapter else None
        if delta is None:
            return np.float32(0)
        added: np.ndarray = np.float32(delta.scale) * ((x @ delta.right().T) @ delta.left(0, delta.shape[0]).T)
        return added

    def embed(self, name: str, tokens: list[int]) -> np.ndarray:
        stored = self.checkpoint.weights[f"{name}.weight"]
        rows = np.concatenate([stored.rows(token, token + 1) for token in tokens])
        delta = self.adapter.deltas.get(name) if self.adapter else None
        return rows if delta is None else rows + np.float32(delta.scale) * (delta.left(0, delta.shape[0])[tokens] @ delta.right())

    def outputs(self, name: str, x: np.ndarray, words: int) -> np.ndarray:
        """The output matrix applied, some rows at a time. Where the embedding serves as it, a change of lm_head still counts."""
        stored = self.checkpoint.weights[f"{name}.weight"]
        out = np.concatenate([x @ stored.rows(start, min(start + _ROWS, words)).T for start in range(0, words, _ROWS)], axis=1)
        changed: np.ndarray = out + self.change("lm_head", x)
        return changed


def _layer(read: _Reader, model: Hyperparameters, states: list[np.ndarray], turns: list[tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
    """One block on all texts: attention, then the feed-forward part, each added to what came in."""
    before, after = read.whole("input_layernorm.weight"), read.whole("post_attention_layernorm.weight")
    norms = [read.whole(f"self_attn.{part}_norm.weight") for part in "qk"] if model.architecture == "qwen3" else None
    maps = [read.linear(f"self_attn.{part}_proj") for part in "qkvo"]
    states = [s + _attention(_normed(s, before, model.epsilon), maps, norms, model, turn) for s, turn in zip(states, turns, strict=True)]
    gate, up, down = (read.linear(f"mlp.{part}_proj") for part in ("gate", "up", "down"))
    inputs = [_normed(state, after, model.epsilon) for state in states]
    return [state + down(_silu(gate(x)) * up(x)) for state, x in zip(states, inputs, strict=True)]


def _attention(
    x: np.ndarray,
    maps: list[Callable[[np.ndarray], np.ndarray]],
    norms: list[np.ndarray] | None,
    model: Hyperparameters,
    turns: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
    """Causal attention of one text with itself."""
    count, size = len(x), model.head_size
    q, k, v = (project(x).reshape(count, -1, size).swapaxes(0, 1) for project in maps[:3])
    if norms:
        q, k = (_normed(part, norm, model.epsilon) for part, norm in zip((q, k), norms, strict=True))
    q, k = _turned(q, turns), _turned(k, turns)
    share = model.heads // model.groups
    k, v = np.repeat(k, share, axis=0), np.repeat(v, share, axis=0)
    scores = q @ k.swapaxes(1, 2) / np.float32(size**0.5) + np.triu(np.full((count, count), -np.inf, np.float32), 1)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    mixed = (weights / weights.sum(axis=-1, keepdims=True)) @ v
    return maps[3](mixed.swapaxes(0, 1).reshape(count, -1))


def _rotations(model: Hyperparameters, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine of each position's angles, shape (positions, half a head)."""
    kind = model.rope.get("rope_type", model.rope.get("type", "default"))
    if kind == "yarn":
        raise BadCheckpoint("verify cannot compute rotary scaling of the type yarn: compare with a GGUF in F32 as the source")
    frequencies = model.rope_base ** -(np.arange(0, model.head_size, 2) / model.head_size)
    factors = rope_factors(model)
    frequencies = frequencies / (model.rope["factor"] if kind == "linear" else 1 if factors is None else factors)
    angles = np.outer(np.arange(count), frequencies)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _turned(x: np.ndarray, turns: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    cos, sin = turns
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _normed(x: np.ndarray, weight: np.ndarray, epsilon: float) -> np.ndarray:
    scaled: np.ndarray = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + np.float32(epsilon)) * weight
    return scaled


def _silu(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        activated: np.ndarray = x / (1 + np.exp(-x))
    return activated
