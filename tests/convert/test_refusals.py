"""What cannot be converted is told in one sentence that names it, and nothing is written."""

import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

from promptimal_convert.adapter import BadAdapter, read_adapter
from promptimal_convert.checkpoint import BadCheckpoint, open_checkpoint
from promptimal_convert.folder import open_model
from promptimal_convert.produce import BadWeights, Target, produce


@pytest.fixture
def folder(models: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of a sharded Llama that can be damaged."""
    return Path(shutil.copytree(models["llama2"], tmp_path / "damaged"))


def set_config(folder: Path, **more: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **more}))


def reshape(folder: Path) -> None:
    weights = tiny.weights(tiny.MODELS["llama2"].config)
    weights["model.layers.1.mlp.up_proj.weight"] = weights["model.layers.1.mlp.up_proj.weight"][:-1]
    tiny.save(weights, folder, "F16", 3)


def omit(folder: Path) -> None:
    weights = tiny.weights(tiny.MODELS["llama2"].config)
    del weights["model.layers.2.self_attn.o_proj.weight"]
    tiny.save(weights, folder, "F16", 3)


def add(folder: Path) -> None:
    weights = tiny.weights(tiny.MODELS["llama2"].config)
    tiny.save({**weights, "model.layers.0.mlp.experts.weight": np.ones((2, 2), np.float32)}, folder, "F16", 3)


def cut(folder: Path, file: str, keep: int) -> None:
    data = (folder / file).read_bytes()
    (folder / file).write_bytes(data[:keep])


def cut_tokens(folder: Path) -> None:
    (folder / "tokenizer.model").unlink()
    tokenizer = json.loads((tiny.TOKENIZERS / "llama3/tokenizer.json").read_text())
    tokenizer["pre_tokenizer"] = {"type": "Whitespace"}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


SHARD = "model-00002-of-00003.safetensors"
DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a missing shard": (lambda f: (f / SHARD).unlink(), f"{SHARD} is missing, 1 of 3 shards"),
    "a cut shard": (lambda f: cut(f, SHARD, -100), rf"{SHARD} is cut off in \S+: download it again"),
    "a shard cut in its header": (lambda f: cut(f, SHARD, 50), f"{SHARD} is cut off"),
    "an empty shard": (lambda f: cut(f, SHARD, 0), f"{SHARD} is cut off"),
    "a wrong shape": (reshape, r"model.layers.1.mlp.up_proj.weight has the shape \(511, 256\), not \(512, 256\)"),
    "a missing weight": (omit, "the weight for blk.2.attn_output.weight is missing"),
    "an unknown weight": (add, "model.layers.0.mlp.experts.weight is no weight of a llama model"),
    "no configuration": (lambda f: (f / "config.json").unlink(), "config.json: No such file"),
    "a broken configuration": (lambda f: (f / "config.json").write_text("{"), "config.json is no sound JSON"),
    "another architecture": (lambda f: set_config(f, architectures=["PhiForCausalLM"]), "PhiForCausalLM is not supported, only LlamaFor.*llama.cpp"),
    "no size": (lambda f: set_config(f, hidden_size=None), "hidden_size is missing"),
    "unknown scaling": (lambda f: set_config(f, rope_scaling={"type": "dynamic", "factor": 2.0}), "rotary scaling of the type dynamic"),
    "quantized weights": (lambda f: set_config(f, quantization_config={"bits": 4}), "quantized already"),
    "no tokenizer": (lambda f: (f / "tokenizer.model").unlink(), "has no tokenizer"),
    "a cut tokenizer": (lambda f: cut(f, "tokenizer.model", 1001), "tokenizer"),
    "an unknown tokenizer": (cut_tokens, "cuts texts in a way that is not known here"),
    "no index": (lambda f: (f / "model.safetensors.index.json").unlink(), "holds no weights"),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_or_unknown_model(folder: Path, what: str) -> None:
    damage, message = DAMAGE[what]
    damage(folder)
    with pytest.raises(BadCheckpoint, match=message):
        open_model(open_checkpoint(str(folder)), None)


def test_the_command_says_it_in_a_line(folder: Path, tmp_path: Path, run) -> None:
    (folder / SHARD).unlink()
    done = run(folder, "-o", tmp_path / "out.gguf")
    assert done.returncode == 1 and not (tmp_path / "out.gguf").exists()
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("promptimal-convert: ") and SHARD in done.stderr


def test_wrong_usage_is_code_2(tmp_path: Path, run) -> None:
    for arguments in ([], ["merge"], ["x", "-o", "y", "--type", "q9"], ["verify", "x"], ["x", "y", "z", "-o", "o"]):
        assert run(*arguments).returncode == 2, arguments
    done = run("nowhere", "-o", tmp_path / "missing/out.gguf")
    assert done.returncode == 1 and "Traceback" not in done.stderr


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_weights_that_are_no_numbers(folder: Path, tmp_path: Path, value: float) -> None:
    weights = tiny.weights(tiny.MODELS["llama2"].config)
    weights["model.layers.1.mlp.up_proj.weight"][5, 5] = value
    tiny.save(weights, folder, "F32", 3)
    with pytest.raises(BadWeights, match=r"blk\.1\.ffn_up\.weight holds values"):
        produce(open_model(open_checkpoint(str(folder)), None), [Target(tmp_path / "x.gguf", "Q8_0")])
    assert not list(tmp_path.glob("*x.gguf*"))


SETTINGS = {
    "peft_type": "IA3", "use_dora": True, "modules_to_save": ["lm_head"], "rank_pattern": {"q_proj": 2}, "bias": "all",
    "init_lora_weights": "pissa", "trainable_token_indices": [1], "fan_in_fan_out": True, "r": None,
}  # fmt: skip


@pytest.mark.parametrize("key", SETTINGS)
def test_an_adapter_that_is_more_than_lora(tmp_path: Path, key: str) -> None:
    adapter = tiny.adapter(tiny.weights(tiny.MODELS["llama2"].config), tmp_path / "a", ["q_proj"], **{key: SETTINGS[key]})
    with pytest.raises(BadAdapter, match=r"not supported|IA3|changes the base"):
        read_adapter(adapter)


def test_an_adapter_with_other_weights(models: dict[str, Path], tmp_path: Path) -> None:
    weights = tiny.weights(tiny.MODELS["llama2"].config)
    adapter = tiny.adapter(weights, tmp_path / "a", ["q_proj"])
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    extra = {
        f"{name}.lora_A.weight": np.ones((4, 256)),
        f"{name}.lora_B.weight": np.ones((256, 4)),
        f"{name}.lora_magnitude_vector": np.ones(256),
    }
    (adapter / "adapter_model.safetensors").write_bytes(tiny.safetensors(extra))
    with pytest.raises(BadAdapter, match="lora_magnitude_vector is not supported"):
        read_adapter(adapter)
    lonely = {f"{name}.lora_A.weight": np.ones((4, 256))}
    (adapter / "adapter_model.safetensors").write_bytes(tiny.safetensors(lonely))
    with pytest.raises(BadAdapter, match=r"q_proj has only one"):
        read_adapter(adapter)
    for module, message in {"k_proj": "k_proj has the shape", "w_proj": "w_proj, which is no weight"}.items():
        other = {f"{name[:-6]}{module}.lora_A.weight": np.ones((4, 256)), f"{name[:-6]}{module}.lora_B.weight": np.ones((300, 4))}
        (adapter / "adapter_model.safetensors").write_bytes(tiny.safetensors(other))
        with pytest.raises(BadAdapter, match=message):
            open_model(open_checkpoint(str(models["llama2"])), read_adapter(adapter))


class _Evil:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("pickle-was-run"),)


@pytest.mark.parametrize("payload", [{"w": _Evil()}, {"w": np.float64}, [1, 2], {"w": 3}])
def test_no_pickle_is_run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, payload: Any) -> None:
    monkeypatch.chdir(tmp_path)
    for file in folder.glob("model*"):
        file.unlink()
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(payload, protocol=2))
    with pytest.raises(BadCheckpoint, match=r"pytorch_model.bin"):
        open_checkpoint(str(folder))
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(payload))
    with pytest.raises(BadCheckpoint, match="no PyTorch file that can be read"):
        open_checkpoint(str(folder))
    assert not (tmp_path / "pickle-was-run").exists()


def test_a_mutated_shard_never_raises_anything_else(folder: Path) -> None:
    data = (folder / SHARD).read_bytes()
    draw = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        mutated = bytearray(data)
        for place in draw.integers(0, 1500, draw.integers(1, 4)):
            mutated[place] = draw.integers(0, 256)
        (folder / SHARD).write_bytes(mutated)
        try:
            open_model(open_checkpoint(str(folder)), None)
        except BadCheckpoint:
            refused += 1
    assert refused > 50
