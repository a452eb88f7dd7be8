"""An adapter merged into its base computes what base and adapter compute at run time."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from promptimal_convert.adapter import BadAdapter, convert, permute
from promptimal_convert.gguf_file import BadGGUF, NewTensor, entry, read_header, write
from promptimal_convert.merge import array, merge

RANK, INNER, OUTER, HEADS = 2, 64, 32, 4


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.gguf"
    draw = np.random.default_rng(0)
    tensors = [
        NewTensor("token_embd.weight", (INNER, 8), 0, draw.normal(size=(8, INNER)).astype(np.float32).tobytes),
        NewTensor("blk.0.attn_q.weight", (INNER, OUTER), 0, draw.normal(size=(OUTER, INNER)).astype(np.float32).tobytes),
        NewTensor("blk.0.attn_v.weight", (INNER, OUTER), 0, draw.normal(size=(OUTER, INNER)).astype(np.float32).tobytes),
        NewTensor("blk.0.attn_norm.weight", (INNER,), 0, np.ones(INNER, np.float32).tobytes),
    ]
    entries = [entry("general.architecture", "llama"), entry("llama.attention.head_count", HEADS), entry("general.file_type", 0)]
    write(path, entries, tensors)
    return path


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    draw = np.random.default_rng(1)
    weights = {}
    for module in ("q_proj", "v_proj"):
        name = f"base_model.model.model.layers.0.self_attn.{module}"
        weights[f"{name}.lora_A.weight"] = draw.normal(size=(RANK, INNER)).astype(np.float32)
        weights[f"{name}.lora_B.weight"] = draw.normal(size=(OUTER, RANK)).astype(np.float32)
    save_file(weights, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": RANK, "lora_alpha": 4}))
    return folder


def test_the_merge_adds_the_scaled_product(tmp_path: Path, base: Path, adapter: Path) -> None:
    from safetensors.numpy import load_file

    convert(adapter, base, tmp_path / "a.gguf")
    merge(base, tmp_path / "a.gguf", tmp_path / "m.gguf", "F16")
    before, after = read_header(base), read_header(tmp_path / "m.gguf")
    weights = load_file(adapter / "adapter_model.safetensors")
    name = "base_model.model.model.layers.0.self_attn"
    for module, tensor in (("q_proj", "blk.0.attn_q.weight"), ("v_proj", "blk.0.attn_v.weight")):
        delta = 2.0 * weights[f"{name}.{module}.lora_B.weight"] @ weights[f"{name}.{module}.lora_A.weight"]
        if module == "q_proj":
            delta = permute(delta, HEADS)
        np.testing.assert_allclose(array(after, tensor), array(before, tensor) + delta, atol=1e-2)
    assert after.values["general.file_type"] == 1
    assert array(after, "blk.0.attn_norm.weight").tolist() == [1.0] * INNER


@pytest.mark.parametrize(("kind", "error"), [("Q8_0", 0.02), ("Q5_1", 0.12), ("Q4_0", 0.35), ("Q4_1", 0.3)])
def test_each_quantization_is_as_near_as_its_bits_allow(tmp_path: Path, base: Path, kind: str, error: float) -> None:
    merge(base, None, tmp_path / "q.gguf", kind)
    name = "blk.0.attn_v.weight"
    gap = np.abs(array(read_header(tmp_path / "q.gguf"), name) - array(read_header(base), name)).max()
    assert 0 < gap < error


def test_the_rotary_rows_are_reordered_as_llama_cpp_wants_them() -> None:
    rows = np.arange(8).reshape(8, 1)  # two heads of four: halves (0 1 | 2 3) become pairs (0 2, 1 3)
    assert permute(rows, 2).ravel().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_an_adapter_of_another_model_is_refused(tmp_path: Path, base: Path, adapter: Path) -> None:
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    weights = {
        f"{name}.lora_A.weight": np.zeros((RANK, INNER + 1), np.float32),
        f"{name}.lora_B.weight": np.zeros((OUTER, RANK), np.float32),
    }
    save_file(weights, adapter / "adapter_model.safetensors")
    with pytest.raises(BadAdapter, match="does not fit"):
        convert(adapter, base, tmp_path / "a.gguf")
    assert not (tmp_path / "a.gguf").exists()


def test_a_model_is_no_adapter(tmp_path: Path, base: Path) -> None:
    with pytest.raises(BadGGUF, match="no LoRA adapter"):
        merge(base, base, tmp_path / "m.gguf")
