"""A model folder, with a PEFT adapter or without, as the weights and header entries of a GGUF file."""

import tempfile
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

from promptimal_convert import architecture, tokenizer
from promptimal_convert.adapter import Adapter, BadAdapter
from promptimal_convert.architecture import Hyperparameters, gguf_name
from promptimal_convert.checkpoint import BadCheckpoint, Checkpoint, Stored
from promptimal_convert.gguf_file import read_header
from promptimal_convert.produce import Delta, Model, Weight
from promptimal_convert.quantize import Shape


def open_model(checkpoint: Checkpoint, adapter: Adapter | None) -> Model:
    """The model that `checkpoint` and `adapter` make together. Raises BadCheckpoint, BadAdapter."""
    config = architecture.hyperparameters(checkpoint.config, checkpoint.path)
    stored = named(checkpoint, config)
    deltas = _deltas(adapter, config, stored) if adapter else {}
    # Where the embedding serves as the output matrix too, a change of one of them must not reach the other.
    if config.tied and {"token_embd.weight", "output.weight"} & deltas.keys():
        stored["output.weight"] = stored["token_embd.weight"]
    weights = [_weight(name, place, deltas.get(name), config) for name, place in stored.items()]
    if (factors := architecture.rope_factors(config)) is not None:
        weights.insert(0, Weight("rope_freqs.weight", factors.shape, lambda start, stop: factors[start:stop]))
    shape = Shape(config.architecture, config.layers, config.heads, config.groups, "output.weight" not in stored)
    entries = _entries(checkpoint, config, sum(prod(weight.shape) for weight in weights))
    return Model(shape, entries + (adapter.entries if adapter else []), weights)


def named(checkpoint: Checkpoint, config: Hyperparameters) -> dict[str, Stored]:
    """The weights by llama.cpp's names, complete and of the right shapes. Raises BadCheckpoint."""
    found: dict[str, Stored] = {}
    for name, stored in checkpoint.weights.items():
        try:
            target = gguf_name(name)
        except KeyError:
            raise BadCheckpoint(f"{stored.path}: {name} is no weight of a {config.architecture} model") from None
        if target is not None and not (config.tied and target == "output.weight"):
            found[target] = stored
    needed = dict(architecture.shapes(config))
    for target, shape in needed.items():
        if target not in found:
            raise BadCheckpoint(f"{checkpoint.path}: the weight for {target} is missing from its shards: download it again")
        if found[target].shape != shape:
            raise BadCheckpoint(f"{found[target].path}: {found[target].name} has the shape {found[target].shape}, not {shape}")
    for target, stored in found.items():
        matrix = needed.get(target.removesuffix("bias") + "weight")
        if target not in needed and (not target.endswith(".bias") or matrix is None or stored.shape != matrix[:1]):
            raise BadCheckpoint(f"{stored.path}: {stored.name} does not belong to a {config.architecture} model of this configuration")
    return found


def _weight(name: str, stored: Stored, delta: Delta | None, config: Hyperparameters) -> Weight:
    module = name.split(".")[2] if name.startswith("blk.") else ""
    return Weight(name, stored.shape, stored.rows, delta, config.reordered(module))


def _deltas(adapter: Adapter, config: Hyperparameters, stored: dict[str, Stored]) -> dict[str, Delta]:
    """The adapter's changes by llama.cpp's names. Raises BadAdapter where they do not fit."""
    deltas = {}
    for name, delta in adapter.deltas.items():
        try:
            target = gguf_name(f"{name}.weight")
        except KeyError:
            raise BadAdapter(f"{adapter.path}: it changes {name}, which is no weight of a {config.architecture} model") from None
        matrix = stored.get("token_embd.weight" if target == "output.weight" and config.tied else str(target))
        if matrix is None or len(matrix.shape) != 2:
            raise BadAdapter(f"{adapter.path}: it changes {name}, which the base model does not have as a matrix")
        if delta.shape != matrix.shape:
            raise BadAdapter(f"{adapter.path}: its change of {name} has the shape {delta.shape}, the base model's weight {matrix.shape}")
        deltas[str(target)] = delta
    return deltas


def _entries(checkpoint: Checkpoint, config: Hyperparameters, count: int) -> list[bytes]:
    """The header's entries, as llama.cpp's converter writes them: its authors' own library does most of it."""
    import gguf

    writer = gguf.GGUFWriter(None, config.architecture)
    metadata = gguf.Metadata.load(None, checkpoint.path, None if checkpoint.path.name == checkpoint.name else checkpoint.name, count)
    metadata.name = metadata.name or checkpoint.name
    metadata.size_label = metadata.size_label or gguf.size_label(count, count, 0, 0)
    writer.add_type(gguf.GGUFType.MODEL)
    metadata.set_gguf_meta_model(writer)
    architecture.describe(writer, config, config.architecture == "llama" or "head_dim" in checkpoint.config)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    tokenizer.describe(writer, checkpoint.path, config.architecture, config.words)
    return list(_packed(writer))


def _packed(writer: Any) -> Iterator[bytes]:
    """The entries that a gguf writer holds, as it writes them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "header.gguf"
        writer.write_header_to_file(path=path)
        writer.write_kv_data_to_file()
        writer.close()
        yield from read_header(path).raw.values()
