"""A PEFT LoRA adapter: read and checked, to be merged into its base, or written as a GGUF adapter that llama.cpp can load.

promptimal-convert adapter runs/mine --base base.gguf --out mine.gguf

LoRA and rank-stabilized LoRA of any matrices can be read; whatever else an adapter may hold (DoRA, trained biases or whole modules,
ranks that differ) is refused by name, for it would get lost.
"""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from promptimal_convert.architecture import gguf_name
from promptimal_convert.checkpoint import BadCheckpoint, Stored, index, read_json
from promptimal_convert.gguf_file import BadGGUF, Header, NewTensor, array_entry, entry, read_header, write
from promptimal_convert.produce import Delta, permute

_NAME = re.compile(r"base_model\.model\.([\w.]+)\.lora_(?:(embedding)_)?([AB])(?:\.weight)?")

_REFUSED = """use_dora use_qalora modules_to_save rank_pattern alpha_pattern fan_in_fan_out lora_bias layer_replication target_parameters
trainable_token_indices alora_invocation_tokens corda_config eva_config loftq_config""".split()
"""Settings of PEFT that change what an adapter's weights mean."""


class BadAdapter(Exception):
    """An adapter that cannot be converted; the message says why."""


@dataclass(frozen=True)
class Adapter:
    """An adapter's changes, by the modules' names in transformers, and the header entries that go along with them."""

    path: Path
    deltas: dict[str, Delta]
    alpha: float
    entries: list[bytes]


def read_adapter(folder: Path) -> Adapter:
    """Read the adapter in a directory. Raises BadAdapter."""
    config = _config(folder / "adapter_config.json")
    rank = config["r"]
    alpha = float(config["lora_alpha"]) * (math.sqrt(rank) if config.get("use_rslora") else 1)
    return Adapter(folder, _deltas(folder, rank, alpha / rank), alpha, metadata(folder))


def metadata(folder: Path) -> list[bytes]:
    """Entries that tell a merged model how it was trained; promptimal reads them.

    The asks' layer goes along with its sentences: the rewriter finds both in the header of the merged model.
    """
    return [*_card(folder / "card.json"), *_asks(folder)]


def convert(adapter: Path, base: Path, out: Path) -> int:
    """Convert the adapter in directory `adapter`, made on the model in `base` (a GGUF), and write `out`; how many weights it changes.

    Raises BadAdapter where a file is missing or the adapter does not fit the base, BadGGUF where the base is damaged.
    """
    header = read_header(base)
    kind = header.values.get("general.architecture")
    if kind not in ("llama", "qwen2", "qwen3"):
        raise BadAdapter(f"{base}: only llama, qwen2 and qwen3 models are supported, this is {kind!r}")
    read = read_adapter(adapter)
    tensors = []
    for name, delta in sorted(read.deltas.items()):
        target, left = _place(name, delta, header)
        tensors += [_tensor(f"{target}.lora_a", delta.right()), _tensor(f"{target}.lora_b", left)]
    entries = [
        entry("general.architecture", kind),
        entry("general.type", "adapter"),
        entry("adapter.type", "lora"),
        entry("adapter.lora.alpha", read.alpha),
        *read.entries,
    ]
    write(out, entries, tensors)
    return len(tensors) // 2


def _config(path: Path) -> dict[str, Any]:
    try:
        config = read_json(path)
    except BadCheckpoint as error:
        raise BadAdapter(str(error)) from error
    alpha, rank = config.get("lora_alpha"), config.get("r")
    if config.get("peft_type") != "LORA" or type(rank) is not int or rank < 1 or type(alpha) not in (int, float):
        raise BadAdapter(f"{path}: {config.get('peft_type')} is not supported, only LORA with r and lora_alpha")
    for key in _REFUSED:
        if config.get(key):
            raise BadAdapter(f"{path}: {key} is not supported: merge the adapter with PEFT and convert the merged model")
    if config.get("bias", "none") != "none":
        raise BadAdapter(f"{path}: bias = {config['bias']!r} is not supported, only 'none'")
    if isinstance(start := config.get("init_lora_weights"), str) and start not in ("gaussian", "orthogonal", "eva"):
        raise BadAdapter(f"{path}: init_lora_weights = {start!r} changes the base as well: save it with PEFT as a plain LoRA first")
    return config


def _deltas(folder: Path, rank: int, scale: float) -> dict[str, Delta]:
    """The changes, each from its two matrices."""
    files = [file for name in ("adapter_model.safetensors", "adapter_model.bin") if (file := folder / name).is_file()]
    if not files:
        raise BadAdapter(f"{folder} has no adapter_model.safetensors")
    halves: dict[str, dict[str, Stored]] = {}
    embeddings = set()
    try:
        for stored in index(files[0]):
            match = _NAME.fullmatch(stored.name)
            if not match or len(stored.shape) != 2:
                raise BadAdapter(f"{files[0]}: {stored.name} is not supported, only the matrices of a LoRA")
            if stored.shape[match[3] == "B"] != rank:
                raise BadAdapter(f"{stored.name}: its rank is not the configuration's {rank}")
            halves.setdefault(match[1], {})[match[3]] = stored
            embeddings |= {match[1]} if match[2] else set()
    except BadCheckpoint as error:
        raise BadAdapter(str(error)) from error
    if lonely := [name for name, pair in halves.items() if len(pair) != 2]:
        raise BadAdapter(f"{files[0]}: {lonely[0]} has only one of its two matrices")
    if not halves:
        raise BadAdapter(f"{files[0]} changes nothing")
    return {name: _delta(pair["A"], pair["B"], name in embeddings, scale) for name, pair in halves.items()}


def _delta(low: Stored, high: Stored, embedding: bool, scale: float) -> Delta:
    """The change B @ A; an embedding's is that transposed."""
    rank, inner = low.shape
    outer, _ = high.shape
    if embedding:
        return Delta((inner, outer), lambda start, stop: low.rows(0, rank).T[start:stop], lambda: high.rows(0, outer).T, scale)
    return Delta((outer, inner), high.rows, lambda: low.rows(0, rank), scale)


def _card(path: Path) -> list[bytes]:
    """What promptimal-train wrote about an adapter: its prompt format, and in short where it comes from."""
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        template = card["recipe"]["template"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    told = {"template": template, "base": card.get("base"), "base_sha256": card.get("base_sha256"), "data_sha256": card.get("data_sha256")}
    entries = [entry(f"promptimal.{key}", value) for key, value in told.items() if isinstance(value, str) and value]
    return [*entries, entry("promptimal.recipe", json.dumps(card["recipe"]))]


def _asks(folder: Path) -> list[bytes]:
    """The sentences of asks.txt and the layer that rates them, asks.safetensors, where the trainer left them."""
    sentences, layer = folder / "asks.txt", folder / "asks.safetensors"
    if not layer.exists():
        return []
    try:
        texts = sentences.read_text(encoding="utf-8").splitlines()
        stored = {each.name: each for each in index(layer)}
        weight, bias = stored["weight"], stored["bias"]
    except (OSError, UnicodeDecodeError, KeyError, BadCheckpoint) as error:
        raise BadAdapter(f"{folder}: its asks cannot be read: {error}") from error
    if not texts or len(weight.shape) != 2 or (len(texts),) != bias.shape or weight.shape[0] != len(texts):
        raise BadAdapter(f"{folder}: {len(texts)} asks do not fit weights of shape {weight.shape}")
    return [
        array_entry("promptimal.asks", texts),
        array_entry("promptimal.asks.weight", weight.rows(0, len(texts)).astype("<f4").tobytes()),
        array_entry("promptimal.asks.bias", bias.rows(0, len(texts)).astype("<f4").tobytes()),
    ]


def _place(name: str, delta: Delta, base: Header) -> tuple[str, np.ndarray]:
    """The base tensor that a change belongs to, and its left matrix in llama.cpp's layout."""
    try:
        target = str(gguf_name(f"{name}.weight"))
    except KeyError:
        raise BadAdapter(f"{name}: not a weight that an adapter of such a model can have") from None
    if target == "token_embd.weight":
        raise BadAdapter(f"{name}: llama.cpp cannot change an embedding at run time: merge the adapter into its base folder instead")
    if target not in base.tensors:
        raise BadAdapter(f"{name}: the base model has no {target}: merge the adapter into its base folder instead")
    inner, *outer = base.tensors[target].shape
    if delta.shape != (*outer, inner):
        raise BadAdapter(f"{name}: shape {delta.shape} does not fit the base model's {target}, {(*outer, inner)}")
    module, left = target.split(".")[-2], delta.left(0, delta.shape[0])
    if base.values["general.architecture"] == "llama" and module in ("attn_q", "attn_k"):
        key = "llama.attention.head_count" if module == "attn_q" else "llama.attention.head_count_kv"
        heads = base.need(key, int)
        if heads < 1 or left.shape[0] % (2 * heads):
            raise BadGGUF(f"{base.path}: {key} = {heads} does not fit its tensors")
        left = permute(left, heads)
    return target, left


def _tensor(name: str, array: np.ndarray) -> NewTensor:
    # float16: half the size, and finer than any type that the merged model is quantized to.
    half = np.ascontiguousarray(array, dtype=np.float16)
    return NewTensor(name, tuple(reversed(array.shape)), 1, half.tobytes)
