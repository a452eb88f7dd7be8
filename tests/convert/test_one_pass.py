"""`promptimal-convert BASE ADAPTER -o OUT`: the result computes what base and adapter compute, whatever the adapter changes."""

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny

from promptimal_convert.adapter import read_adapter
from promptimal_convert.checkpoint import open_checkpoint
from promptimal_convert.folder import open_model
from promptimal_convert.gguf_file import read_header, read_tensor
from promptimal_convert.merge import merge
from promptimal_convert.produce import Target, produce
from promptimal_convert.reference import logits
from promptimal_convert.soundness import check_model
from promptimal_convert.verify import Runner, compare

TOKENS = [[1, 70, 300, 8, 411, 5, 99, 230, 17], [1, 400, 400, 3]]
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
ALL = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]


def convert(base: Path, adapter: Path | None, out: Path, kind: str = "F32") -> Path:
    produce(open_model(open_checkpoint(str(base)), read_adapter(adapter) if adapter else None), [Target(out, kind)])
    return out


def divergence(model: Path, base: Path, adapter: Path | None) -> float:
    """The largest KL divergence of a converted model, in llama.cpp, from what NumPy computes from base and adapter."""
    check_model(read_header(model))
    with Runner(model) as runner:
        found = [runner.logits(tokens) for tokens in TOKENS]
    expected = logits(open_checkpoint(str(base)), read_adapter(adapter) if adapter else None, TOKENS)
    return compare(expected, found, TOKENS).worst


@pytest.mark.parametrize("name", tiny.MODELS)
def test_the_merged_model_is_base_and_adapter(models: dict[str, Path], tmp_path: Path, name: str) -> None:
    adapter = tiny.adapter(tiny.weights(tiny.MODELS[name].config), tmp_path / "adapter", ALL)
    merged = convert(models[name], adapter, tmp_path / "merged.gguf")
    assert divergence(merged, models[name], adapter) < 1e-4
    assert divergence(merged, models[name], None) > 0.01


@pytest.mark.parametrize("modules", [["embed_tokens"], ["lm_head"], ["embed_tokens", "lm_head", "q_proj"]])
@pytest.mark.parametrize("name", ["smollm", "llama2"])
def test_a_change_of_embedding_or_output_reaches_that_alone_even_where_they_are_tied(
    models: dict[str, Path], tmp_path: Path, name: str, modules: list[str]
) -> None:
    weights = tiny.weights(tiny.MODELS[name].config)
    weights.setdefault("lm_head.weight", weights["model.embed_tokens.weight"])
    adapter = tiny.adapter(weights, tmp_path / "adapter", modules)
    assert divergence(convert(models[name], adapter, tmp_path / "merged.gguf"), models[name], adapter) < 1e-4


def test_rank_stabilized_adapters_are_scaled_by_the_root_of_the_rank(models: dict[str, Path], tmp_path: Path) -> None:
    weights = tiny.weights(tiny.MODELS["llama2"].config)
    plain = tiny.adapter(weights, tmp_path / "plain", ATTENTION, lora_alpha=8)
    stable = tiny.adapter(weights, tmp_path / "stable", ATTENTION, lora_alpha=4, use_rslora=True)
    assert read_adapter(plain).deltas.keys() == read_adapter(stable).deltas.keys()
    a, b = (convert(models["llama2"], adapter, tmp_path / f"{adapter.name}.gguf").read_bytes() for adapter in (plain, stable))
    assert a == b


@pytest.mark.parametrize("name", ["llama3", "qwen3"])
def test_the_runtime_adapter_computes_what_the_merged_model_computes(models: dict[str, Path], tmp_path: Path, name: str, run) -> None:
    adapter = tiny.adapter(tiny.weights(tiny.MODELS[name].config), tmp_path / "adapter", ALL)
    base, merged = convert(models[name], None, tmp_path / "base.gguf"), convert(models[name], adapter, tmp_path / "merged.gguf")
    done = run("adapter", adapter, "--base", base, "-o", tmp_path / "adapter.gguf")
    assert done.returncode == 0, done.stderr
    with Runner(base, tmp_path / "adapter.gguf") as beside, Runner(merged) as within:
        a, b = ([runner.logits(tokens) for tokens in TOKENS] for runner in (beside, within))
    assert compare(a, b, TOKENS).worst < 1e-4


def test_smollm2_with_its_adapter_says_the_same_merged_at_f16(tmp_path: Path) -> None:
    """Greedy decoding, token by token: the adapter beside its base, and merged into it."""
    from promptimal import models

    base = models._base()
    merge(base, None, tmp_path / "base.gguf", "F16")
    merge(base, models.ADAPTER, tmp_path / "merged.gguf", "F16")
    with Runner(tmp_path / "base.gguf", models.ADAPTER) as beside, Runner(tmp_path / "merged.gguf") as within:
        for prompt in ("Why do cats purr?", "python sort dict by value"):
            tokens = within.tokenize(f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n", marks=True)
            for _ in range(10):
                a, b = (int(runner.logits(tokens)[-1].argmax()) for runner in (beside, within))
                assert a == b, within.tokenize(prompt)
                tokens.append(a)


def test_a_merged_and_quantized_model_runs_without_flags(tmp_path: Path, run) -> None:
    from promptimal import models

    done = run("merge", models._base(), models.ADAPTER, "-o", tmp_path / "mine.gguf", "--type", "q5_k_m")
    assert done.returncode == 0, done.stderr
    command = [Path(sys.executable).parent / "promptimal", "--model", tmp_path / "mine.gguf", "why do cats purr"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert told.returncode == 0 and told.stdout.startswith("Why do cats purr?"), told.stderr


def test_several_types_come_from_one_reading(models: dict[str, Path], tmp_path: Path, run) -> None:
    done = run(models["llama3"], "-o", tmp_path / "tiny.gguf", "--type", "q4_0,q8_0,q4_k_m")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny-q4_0.gguf", "tiny-q4_k_m.gguf", "tiny-q8_0.gguf"]
    alone = run(models["llama3"], "-o", tmp_path / "alone.gguf", "--type", "Q4_0")
    assert alone.returncode == 0
    assert (tmp_path / "alone.gguf").read_bytes() == (tmp_path / "tiny-q4_0.gguf").read_bytes()


def test_merging_files_is_merging_folders(models: dict[str, Path], tmp_path: Path, run) -> None:
    """adapter + merge + quantize come to what one pass makes, up to the adapter's rounding to float16."""
    adapter = tiny.adapter(tiny.weights(tiny.MODELS["llama2"].config), tmp_path / "adapter", ALL)
    assert run(models["llama2"], "-o", tmp_path / "base.gguf", "--type", "f32").returncode == 0
    assert run(tmp_path / "base.gguf", adapter, "-o", tmp_path / "a.gguf", "--type", "f16").returncode == 0
    assert run("adapter", adapter, "--base", tmp_path / "base.gguf", "-o", tmp_path / "lora.gguf").returncode == 0
    assert run("merge", tmp_path / "base.gguf", tmp_path / "lora.gguf", "-o", tmp_path / "b.gguf", "--type", "f16").returncode == 0
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    assert divergence(tmp_path / "a.gguf", models["llama2"], adapter) < 0.01
    assert run("quantize", tmp_path / "a.gguf", "-o", tmp_path / "q.gguf", "--type", "q5_k_m").returncode == 0
    assert run("merge", tmp_path / "base.gguf", tmp_path / "lora.gguf", "-o", tmp_path / "r.gguf", "--type", "q5_k_m").returncode == 0
    assert (tmp_path / "q.gguf").read_bytes() == (tmp_path / "r.gguf").read_bytes()


def test_what_the_trainer_noted_goes_along(models: dict[str, Path], tmp_path: Path, run) -> None:
    adapter = tiny.adapter(tiny.weights(tiny.MODELS["smollm"].config), tmp_path / "adapter", ATTENTION)
    card = {"recipe": {"template": "chatml", "rank": 4}, "base": "tiny", "base_sha256": "ab" * 32, "data_sha256": "cd" * 32}
    (adapter / "card.json").write_text(json.dumps(card))
    (models["smollm"] / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    done = run(models["smollm"], adapter, "-o", tmp_path / "out.gguf", "--type", "q8_0")
    (models["smollm"] / "README.md").unlink()
    assert done.returncode == 0, done.stderr
    values = read_header(tmp_path / "out.gguf").values
    assert values["promptimal.template"] == "chatml" and json.loads(values["promptimal.recipe"])["rank"] == 4
    assert (
        values["promptimal.data_sha256"] == "cd" * 32 and values["promptimal.base"] == "tiny" and values["general.license"] == "apache-2.0"
    )
    shown = run("inspect", tmp_path / "out.gguf").stdout
    assert "promptimal.template = 'chatml'" in shown and "blk.0.attn_q.weight  Q8_0  256 × 256" in shown


def test_a_name_of_the_hub_is_found_in_the_cache_and_nothing_is_fetched(models: dict[str, Path], tmp_path: Path, run) -> None:
    place = tmp_path / "hub/models--some--model"
    (place / "refs").mkdir(parents=True)
    (place / "refs/main").write_text("0123abc")
    (place / "snapshots").mkdir()
    (place / "snapshots/0123abc").symlink_to(models["llama2"])
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub")}
    done = run("some/model", "-o", tmp_path / "out.gguf", env=environment)
    assert done.returncode == 0, done.stderr
    assert read_header(tmp_path / "out.gguf").values["general.name"] == "model"
    done = run("some/other", "-o", tmp_path / "out.gguf", env={**environment, "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 1 and "cannot get some/other from the hub" in done.stderr


def test_old_torch_shards_give_the_same_bytes(models: dict[str, Path], tmp_path: Path) -> None:
    import torch

    for name, dtype in (("llama3", torch.bfloat16), ("llama2", torch.float16)):
        old = tmp_path / models[name].name
        old.mkdir()
        for file in models[name].iterdir():
            if not file.name.startswith("model"):
                (old / file.name).write_bytes(file.read_bytes())
        weights = {key: torch.from_numpy(value).to(dtype) for key, value in tiny.weights(tiny.MODELS[name].config).items()}
        if name == "llama3":  # float32 cut to bfloat16, as tiny.py does it, is no rounding
            stored = open_checkpoint(str(models[name])).weights
            weights = {key: torch.from_numpy(value.rows(0, value.shape[0])).to(dtype) for key, value in stored.items()}
        names = sorted(weights)
        parts = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
        for file, part in parts.items():
            torch.save({key: weights[key] for key in part}, old / file)
        places = {key: file for file, part in parts.items() for key in part}
        (old / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
        a, b = (read_header(convert(base, None, tmp_path / f"{i}.gguf", "F16")) for i, base in enumerate((models[name], old)))
        assert a.raw == b.raw and a.tensors.keys() == b.tensors.keys()
        assert all(read_tensor(a, key) == read_tensor(b, key) for key in a.tensors)


def test_too_small_a_disk_is_told_before_anything_is_written(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 1_000_000}))
    with pytest.raises(OSError, match="GB are needed"):
        convert(models["llama2"], None, tmp_path / "out.gguf")
    assert list(tmp_path.iterdir()) == []


def slow_base(tmp_path: Path) -> Path:
    """A model whose vocabulary takes a second or more to quantize."""
    config = {**tiny.MODELS["smollm"].config, "vocab_size": 100_000, "num_hidden_layers": 1}
    return tiny.write(tiny.Tiny(config, "smollm"), tmp_path / "base")


SLOW = "q4_k_m,q5_k_m,q3_k_m,q2_k"


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_nothing(tmp_path: Path, stop: signal.Signals) -> None:
    out = tmp_path / "out"
    out.mkdir()
    command = [Path(sys.executable).parent / "promptimal-convert", slow_base(tmp_path), "-o", out / "x.gguf", "--type", SLOW]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not list(out.iterdir()) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(stop)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert list(out.iterdir()) == [] and "Traceback" not in errors


def test_on_a_terminal_it_says_how_far_it_is_and_how_long_it_will_take(tmp_path: Path) -> None:
    terminal, its_end = pty.openpty()
    command = [Path(sys.executable).parent / "promptimal-convert", slow_base(tmp_path), "-o", tmp_path / "x.gguf", "--type", SLOW]
    process = subprocess.Popen(command, stderr=its_end)
    os.close(its_end)
    shown = b""
    with contextlib.suppress(OSError):  # Linux says so when the other end is closed
        while block := os.read(terminal, 4096):
            shown += block
    os.close(terminal)
    assert process.wait() == 0
    progress, _, after = shown.rpartition(b"\r\x1b[K")
    assert re.search(rb" \d\d%  0\.\d\d of 0\.\d\d GB, 0:\d\d left", progress)
    assert after.count(b"\n") == 4 and b"%" not in after


def test_memory_does_not_grow_with_the_number_of_layers(tmp_path: Path) -> None:
    """Twelve times the layers, 180 MB of them with an adapter of 55 MB, and no more memory than noise."""
    peaks = []
    for layers in (2, 24):
        config = {**tiny.MODELS["llama2"].config, "num_hidden_layers": layers, "intermediate_size": 2048}
        base = tiny.write(tiny.Tiny(config, "sentencepiece", shards=4), tmp_path / str(layers))
        adapter = tiny.adapter(tiny.weights(config), base / "adapter", ALL, rank=64)
        script = (
            "import resource, sys; from promptimal_convert.command import main; sys.argv[0] = 'promptimal-convert'; assert main() == 0; "
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, base, adapter, "-o", base / "x.gguf"], capture_output=True, text=True, check=True
        )
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] < peaks[0] + 40, peaks
