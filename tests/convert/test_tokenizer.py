"""llama.cpp cuts texts into the same tokens as the tokenizers that the models were trained with."""

import json
import shutil
import unicodedata
from pathlib import Path

import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from promptimal_convert.checkpoint import open_checkpoint
from promptimal_convert.folder import open_model
from promptimal_convert.gguf_file import read_header
from promptimal_convert.produce import Target, produce
from promptimal_convert.verify import HARD, Runner

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text())
HERE = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def runners(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Runner]:
    folder = tmp_path_factory.mktemp("converted")
    for name in models:
        produce(open_model(open_checkpoint(str(models[name])), None), [Target(folder / name, "Q8_0")])
    return {name: Runner(folder / name) for name in models}


BPE = ["llama3", "smollm", "qwen2", "qwen3"]


@pytest.mark.parametrize("name", BPE)
def test_byte_level_bpe_on_hard_texts_prose_and_code(models: dict[str, Path], runners: dict[str, Runner], name: str) -> None:
    theirs = Tokenizer.from_file(str(models[name] / "tokenizer.json"))
    texts = [*HARD, *(HERE / "README.md").read_text().split("\n\n"), (HERE / "convert/promptimal_convert/tokenizer.py").read_text()]
    for text in (unicodedata.normalize("NFC", text) for text in texts):
        assert runners[name].tokenize(text, special=False) == theirs.encode(text, add_special_tokens=False).ids, text


@pytest.mark.parametrize("name", BPE)
@settings(max_examples=150, deadline=None)
@given(text=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40) | st.text("a1 \n\t'sdmll.-,!👍é你", max_size=40))
def test_byte_level_bpe_on_any_text(models: dict[str, Path], runners: dict[str, Runner], name: str, text: str) -> None:
    theirs = Tokenizer.from_file(str(models[name] / "tokenizer.json"))
    text = unicodedata.normalize("NFC", text)
    assert runners[name].tokenize(text, special=False) == theirs.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("name", ["llama2", "mistral"])
def test_sentencepiece(runners: dict[str, Runner], name: str) -> None:
    for text, tokens in GOLDEN["sentencepiece"].items():
        assert runners[name].tokenize(text, special=False) == tokens, text


def test_sentencepiece_rewritten_as_bpe_keeps_its_tokens(models: dict[str, Path], tmp_path: Path, runners: dict[str, Runner]) -> None:
    """A folder that transformers saved holds tokenizer.json alone: the scores, which it lost, come back from the order of the merges."""
    folder = shutil.copytree(models["llama2"], tmp_path / "rewritten")
    (folder / "tokenizer.model").unlink()
    header = read_header_texts(models["llama2"])
    (folder / "tokenizer.json").write_text(json.dumps(as_bpe(header)))
    produce(open_model(open_checkpoint(str(folder)), None), [Target(tmp_path / "x.gguf", "Q8_0")])
    with Runner(tmp_path / "x.gguf") as runner:
        for text in GOLDEN["sentencepiece"]:
            assert runner.tokenize(text, special=False) == runners["llama2"].tokenize(text, special=False), text


def test_control_tokens_and_the_chat_template_go_along(models: dict[str, Path], runners: dict[str, Runner], tmp_path: Path) -> None:
    produce(open_model(open_checkpoint(str(models["smollm"])), None), [Target(tmp_path / "x.gguf", "Q8_0")])
    values = read_header(tmp_path / "x.gguf").values
    tokenizer = json.loads((tiny.TOKENIZERS / "smollm/tokenizer.json").read_text())
    numbers = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    assert values["tokenizer.ggml.bos_token_id"] == numbers["<|im_start|>"]
    assert values["tokenizer.ggml.eos_token_id"] == numbers["<|im_end|>"]
    assert "<|im_start|>" in values["tokenizer.chat_template"] and values["tokenizer.ggml.pre"] == "smollm"
    llama3 = Tokenizer.from_file(str(models["llama3"] / "tokenizer.json"))
    assert runners["llama3"].tokenize("Hello") == llama3.encode("Hello").ids  # with the beginning token


def read_header_texts(folder: Path) -> list[tuple[str, float, int]]:
    from promptimal_convert.tokenizer import read_vocabulary

    vocabulary = read_vocabulary(folder, {}, 512)
    assert vocabulary.scores is not None
    return list(zip(vocabulary.tokens, vocabulary.scores, vocabulary.kinds, strict=True))


def as_bpe(pieces: list[tuple[str, float, int]]) -> dict[str, object]:
    """What transformers makes of a SentencePiece model: pairs of pieces that make a piece, best score first."""
    numbers = {text: i for i, (text, _, kind) in enumerate(pieces) if kind != 5}
    scores = {text: score for text, score, kind in pieces if kind == 1}
    merges = [
        (left, text[len(left) :], scores[text])
        for text in scores
        for left in (text[:i] for i in range(1, len(text)))
        if left in numbers and text[len(left) :] in numbers
    ]
    merges.sort(key=lambda merge: (-merge[2], numbers[merge[0]], numbers[merge[1]]))
    added = [{"id": i, "content": text, "special": True} for i, text in enumerate(("<unk>", "<s>", "</s>"))]
    model = {"type": "BPE", "byte_fallback": True, "vocab": numbers, "merges": [list(merge[:2]) for merge in merges], "unk_token": "<unk>"}
    return {"model": model, "added_tokens": added, "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}]}}
