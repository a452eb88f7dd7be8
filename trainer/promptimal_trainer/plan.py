"""What a run will take, memory and time, before anything is loaded: from the recipe, the pairs, and the header of the base.

    promptimal-train finetune --recipe llama2-7b --plan --memory 24GB --tflops 35

A LoRA update costs 4 operations a weight and token (forward, and back through the frozen weights), one and a half times that where activations are
computed again (Chen et al., 2016, https://arxiv.org/abs/1604.06174); layers below the adapter only run forward.
"""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from promptimal import passage
from promptimal_trainer.base import BadBase, find_gguf
from promptimal_trainer.errors import TrainError
from promptimal_trainer.pairs import Pair, is_held_out
from promptimal_trainer.recipe import TOKENS_A_PASS, Recipe

TOLERANCE = 0.35
"""How far a plan may be from a run, as a share of the run: tested for a small Llama. Time is a rule of thumb."""

_LIBRARIES = 0.45e9  # bytes of torch, transformers and peft in memory before anything is loaded; a CUDA context takes about as much
_NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)  # bytes a weight: 4 bits, a byte of scale for 64 weights, a float32 for 256 of those
_TEMPORARY = 1.4  # what is in use between two operations, and holes in the heap, as a factor on what is kept
_USE = 0.3  # of a chip's arithmetic in 16 bits that training reaches, by rule of thumb
_CHARACTERS = 3.4  # a token of English in a vocabulary of 50,000 words, measured on the project's own pairs
_TEMPLATE = 12  # tokens around a request


class BadHardware(TrainError):
    """A description of hardware that cannot be read."""


class Shapes(NamedTuple):
    """What a Llama-like model's size depends on."""

    hidden: int
    inner: int
    layers: int
    queries: int
    keys: int
    words: int
    tied: bool

    @property
    def layer(self) -> int:
        """Weights in a layer's matrices."""
        return self.hidden * (2 * self.queries + 2 * self.keys + 3 * self.inner)

    @property
    def embeddings(self) -> int:
        return self.hidden * self.words * (1 if self.tied else 2)

    @property
    def inputs_and_outputs(self) -> int:
        """Rows and columns of a layer's matrices together: an adapter of rank 1 has as many weights."""
        return 7 * self.hidden + 2 * self.queries + 2 * self.keys + 3 * self.inner


SHIPPED = {
    "meta-llama/Llama-2-7b-chat-hf": Shapes(4096, 11008, 32, 4096, 4096, 32000, False),
    "Qwen/Qwen3-0.6B": Shapes(1024, 3072, 28, 2048, 1024, 151936, True),
}
"""Bases of the shipped recipes, for where they are not downloaded yet."""


class Plan(NamedTuple):
    """Bytes and seconds that a run is expected to take; `tokens` are those of all epochs."""

    base: float
    adapter: float
    activations: float
    tokens: float
    operations: float

    @property
    def memory(self) -> float:
        return _LIBRARIES + self.base + self.adapter + self.activations


def read_shapes(name: str) -> Shapes:
    """From a GGUF's header, a folder's or a downloaded model's config.json, or the shipped table. Raises BadBase."""
    if gguf := find_gguf(name):
        try:
            return _from_gguf(gguf)
        except Exception as error:  # damage shows in many ways
            raise BadBase(f"{gguf} does not tell the sizes of a Llama-like model: {error!r}") from error
    config = Path(name) / "config.json"
    if not config.exists():
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(name, "config.json") if re.fullmatch(r"[\w.-]+/[\w.-]+", name) else None
        if not isinstance(cached, str):
            if name in SHIPPED:
                return SHIPPED[name]
            raise BadBase(
                f"{name} is neither a folder with a config.json nor downloaded: without one or the other it cannot be planned for"
            )
        config = Path(cached)
    try:
        c = json.loads(config.read_text(encoding="utf-8"))
        heads, hidden = c["num_attention_heads"], c["hidden_size"]
        size = c.get("head_dim") or hidden // heads
        keys = size * (c.get("num_key_value_heads") or heads)
        tied = bool(c.get("tie_word_embeddings", False))
        return Shapes(hidden, c["intermediate_size"], c["num_hidden_layers"], size * heads, keys, c["vocab_size"], tied)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadBase(f"{config} does not tell the sizes of a Llama-like model: {error}") from error


def _from_gguf(path: Path) -> Shapes:
    from gguf import GGUFReader

    reader = GGUFReader(path)
    value = {
        name.split(".", 1)[1]: field.contents() for name, field in reader.fields.items() if name.split(".")[0] not in ("GGUF", "tokenizer")
    }
    tensors = {tensor.name: tensor.shape for tensor in reader.tensors}
    hidden, heads = value["embedding_length"], value["attention.head_count"]
    size = value.get("attention.key_length") or hidden // heads
    keys, words = size * value.get("attention.head_count_kv", heads), int(tensors["token_embd.weight"][-1])
    return Shapes(hidden, value["feed_forward_length"], value["block_count"], size * heads, keys, words, "output.weight" not in tensors)


def plan(recipe: Recipe, shapes: Shapes, pairs: Sequence[Pair], bytes_a_number: int) -> Plan:
    """What training on these pairs takes. `bytes_a_number` is 2 for bfloat16 and float16, 4 for float32."""
    lengths, answers = zip(*(_lengths(pair) for pair in pairs), strict=True)
    longest = min(recipe.max_tokens, max(lengths))
    answer = min(longest, max(answers))
    trained = shapes.layers - recipe.skip_layers
    weights = shapes.layers * shapes.layer * (_NF4 if recipe.quantize == "nf4" else bytes_a_number) + shapes.embeddings * bytes_a_number
    if find_gguf(recipe.base):
        weights *= 2  # while it is dequantized
    adapter = 16 * recipe.rank * trained * shapes.inputs_and_outputs  # float32: weights, gradients, two moments
    batch = min(recipe.batch, len(pairs))
    kept = _kept(shapes, recipe, bytes_a_number)
    all_layers = trained * 2 * shapes.hidden * bytes_a_number + kept if recipe.gradient_checkpointing else trained * kept
    read = min(batch * longest, max(longest, TOKENS_A_PASS))  # tokens at once
    written = min(batch * answer, read)
    activations = _TEMPORARY * (read * all_layers + written * shapes.words * (bytes_a_number + 12))
    tokens = recipe.epochs * sum(n for p, n in zip(pairs, lengths, strict=True) if not is_held_out(p.prompt, recipe.held_out))
    passes = 2 * recipe.skip_layers + (6 if recipe.gradient_checkpointing else 4) * trained
    output = 4 * shapes.hidden * shapes.words * sum(answers) / sum(lengths)
    return Plan(weights, adapter, activations, tokens, tokens * (passes * shapes.layer + output))


def _kept(shapes: Shapes, recipe: Recipe, bytes_a_number: int) -> float:
    """Bytes that a layer keeps of each token for its gradients: what goes in and out of its matrices, norms and attention; with
    drop-out a mask and a copy of each matrix's input as well. Fitted to what torch saves."""
    numbers = 5 * shapes.hidden + 6 * shapes.queries + 2 * shapes.keys + 4 * shapes.inner + 7 * recipe.rank
    drop_out = (bytes_a_number + 1.5) * (6 * shapes.hidden + shapes.inner) if recipe.dropout else 0
    return (2 if bytes_a_number == 2 else 3) * numbers + drop_out  # float32 needs no casts, whose results are kept too


def _lengths(pair: Pair) -> tuple[int, int]:
    """Tokens of a pair, and of its answer, by their characters."""
    answer = math.ceil(len(pair.target) / _CHARACTERS) + 1
    return _TEMPLATE + math.ceil(len(passage.view(passage.split(pair.prompt))) / _CHARACTERS) + answer, answer


def read_bytes(text: str) -> float:
    """ "24GB" as bytes. Raises BadHardware."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(GB|GiB|G|MB|M)", text.strip(), re.I)
    if not match:
        raise BadHardware(f"--memory {text}: give it as 24GB")
    return float(match[1]) * {"G": 1e9, "M": 1e6}[match[2][0].upper()]


def measure_speed(bytes_a_number: int) -> float:
    """Operations a second that this machine reaches in a matrix product of a training step's size."""
    import time

    import torch

    kind = torch.bfloat16 if bytes_a_number == 2 else torch.float32
    a, b = torch.randn(1024, 1024, dtype=kind), torch.randn(1024, 1024, dtype=kind)
    best = math.inf
    for _ in range(6):
        started = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - started)
    return 2 * 1024**3 / best


def report(name: str, recipe: Recipe, pairs: Sequence[Pair], memory: str | None, tflops: float | None) -> str:
    """The plan in words, for a GPU of so much memory and so many TFLOP/s, or for this machine. Raises BadBase, BadHardware."""
    size = bytes_of(recipe, elsewhere=tflops is not None)
    room = read_bytes(memory) if memory else machine_memory()
    peak = tflops * 1e12 if tflops else measure_speed(size)
    found = plan(recipe, read_shapes(recipe.base), pairs, size)
    seconds = found.operations / (peak * _USE)
    fits = found.memory < 0.95 * room
    parts = (("libraries", _LIBRARIES), ("base", found.base), ("adapter and AdamW", found.adapter), ("activations", found.activations))
    lines = [
        f"{name}: {recipe.base}, {found.tokens:,.0f} tokens in {recipe.epochs} epochs",
        f"memory: {found.memory / 1e9:.1f} GB ({', '.join(f'{part} {size / 1e9:.1f}' for part, size in parts)}): "
        f"{'fits in' if fits else 'does not fit in'} {room / 1e9:.1f} GB",
        f"time: {_duration(seconds)}, {found.tokens / seconds:,.0f} tokens/s at {_USE:.0%} of {peak / 1e12:.2f} TFLOP/s",
    ]
    if not fits:
        lines.append(
            'to save memory: gradient_checkpointing = true; a smaller batch and a larger accumulate; quantize = "nf4"; a smaller max_tokens'
        )
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds > 5400 else f"{max(1, round(seconds / 60))} minutes"


def machine_memory() -> float:
    """Bytes of main memory."""
    import os

    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def bytes_of(recipe: Recipe, elsewhere: bool) -> int:
    """2 or 4 bytes a number, on this machine or on a GPU elsewhere."""
    if recipe.precision != "auto" or elsewhere:
        return 4 if recipe.precision == "float32" else 2
    from promptimal_trainer.distributed import join
    from promptimal_trainer.finetune import precision

    dtype: Any = precision(recipe, join())
    return int(dtype.itemsize)
