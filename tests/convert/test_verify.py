"""`promptimal-convert verify` tells a sound model from a damaged one."""

from pathlib import Path

import numpy as np
import tiny

from promptimal_convert.gguf_file import NewTensor, read_header, read_tensor, write
from promptimal_convert.verify import compare

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def test_a_sound_model_passes_and_is_told_in_a_table(models: dict[str, Path], tmp_path: Path, run) -> None:
    adapter = tiny.adapter(tiny.weights(tiny.MODELS["llama3"].config), tmp_path / "adapter", ALL)
    assert run(models["llama3"], adapter, "-o", tmp_path / "x.gguf", "--type", "f16,q8_0").returncode == 0
    files = [tmp_path / "x-f16.gguf", tmp_path / "x-q8_0.gguf"]
    done = run("verify", *files, "--source", models["llama3"], "--adapter", adapter)
    assert done.returncode == 0, done.stderr
    rows = {line.split(" | ")[0].strip("| "): line for line in done.stdout.splitlines()[2:]}
    assert list(rows) == ["source", "x-f16.gguf", "x-q8_0.gguf"] and rows["x-f16.gguf"].endswith("100.0% |")
    without = run("verify", *files, "--source", models["llama3"])
    assert without.returncode == 3 and "mean divergence" in without.stderr


def test_a_gguf_can_be_the_source(models: dict[str, Path], tmp_path: Path, run) -> None:
    assert run(models["qwen2"], "-o", tmp_path / "x.gguf", "--type", "f16,q8_0").returncode == 0
    done = run("verify", tmp_path / "x-q8_0.gguf", "--source", tmp_path / "x-f16.gguf")
    assert done.returncode == 0, done.stderr


def test_rows_in_the_wrong_order_are_noticed(models: dict[str, Path], tmp_path: Path, run) -> None:
    """The mistake that a converter makes most easily: query rows left as transformers has them."""
    assert run(models["llama2"], "-o", tmp_path / "x.gguf", "--type", "f16").returncode == 0
    header = read_header(tmp_path / "x.gguf")

    def data(name: str) -> bytes:
        raw = read_tensor(header, name)
        if name.endswith("attn_q.weight"):
            raw = np.frombuffer(raw, np.float16).reshape(4, 32, 2, 256).swapaxes(1, 2).tobytes()
        return raw

    tensors = [NewTensor(t.name, t.shape, t.type, lambda name=t.name: data(name)) for t in header.tensors.values()]
    write(tmp_path / "wrong.gguf", list(header.raw.values()), tensors)
    done = run("verify", tmp_path / "wrong.gguf", "--source", models["llama2"])
    assert done.returncode == 3, done.stdout


def test_a_shared_output_on_one_line_a_prompt(models: dict[str, Path], tmp_path: Path, run) -> None:
    (tmp_path / "prompts.txt").write_text("why do cats purr\nHello there, what is this?\n")
    assert run(models["smollm"], "-o", tmp_path / "x.gguf").returncode == 0
    done = run("verify", tmp_path / "x.gguf", "--source", models["smollm"], "--text", tmp_path / "prompts.txt")
    assert done.returncode == 0, done.stderr


def test_divergence_is_zero_only_for_equal_predictions() -> None:
    draw = np.random.default_rng(0)
    logits = [draw.normal(size=(5, 9)).astype(np.float32)]
    same = compare(logits, [logits[0] + 3], [[1, 2, 3, 4, 5]])
    assert same.divergence < 1e-6 and same.agreement == 1  # logits are the same up to a constant
    p = np.exp(logits[0]) / np.exp(logits[0]).sum(axis=1, keepdims=True)
    assert np.isclose(same.perplexity, np.exp(-np.log(p[np.arange(4), [2, 3, 4, 5]]).mean()), rtol=1e-5)
    assert compare(logits, [logits[0][:, ::-1]], [[1, 2, 3, 4, 5]]).divergence > 0.1
