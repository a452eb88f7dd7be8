"""A tokenizer's files into llama.cpp's vocabulary: SentencePiece (Llama 2, Mistral) and byte-level BPE (SmolLM2, Llama 3, Qwen).

How a text is cut before BPE has a name in llama.cpp; here it is told by the rules in tokenizer.json themselves. A tokenizer whose rules
llama.cpp does not have is refused, rather than run with other tokens than the model was trained with.
"""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from promptimal_convert.checkpoint import BadCheckpoint, read_json

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)
"""Kinds of tokens, with SentencePiece's and llama.cpp's numbers."""

_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"  # Llama 3's and Qwen's rule
_PRE_TOKENIZERS: dict[tuple[tuple[Any, ...], ...], str] = {
    (("Split", _SPLIT % r"\p{N}{1,3}"), ("ByteLevel", False)): "llama-bpe",
    (("Split", _SPLIT % r"\p{N}"), ("ByteLevel", False)): "qwen2",
    (("Digits", True), ("ByteLevel", True)): "smollm",
    (("ByteLevel", True),): "gpt-2",
}
"""The rules by which a text is cut, in order → llama.cpp's name for them."""


@dataclass
class Vocabulary:
    """Tokens in order, with their kinds and, for SentencePiece, scores. `pre` is llama.cpp's name of the cut before BPE."""

    model: str
    pre: str
    tokens: list[str]
    kinds: list[int]
    scores: list[float] | None = None


def describe(writer: Any, folder: Path, architecture: str, words: int) -> None:
    """Give a gguf writer the tokenizer in `folder` for a model of `words` tokens. Raises BadCheckpoint."""
    from gguf import SpecialVocab

    settings = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    try:
        vocabulary = read_vocabulary(folder, settings, words)
        if architecture == "llama" and isinstance(settings.get("add_prefix_space"), bool):
            writer.add_add_space_prefix(settings["add_prefix_space"])
        writer.add_tokenizer_model(vocabulary.model)
        writer.add_tokenizer_pre(vocabulary.pre)
        writer.add_token_list(vocabulary.tokens)
        if vocabulary.scores is not None:
            writer.add_token_scores(vocabulary.scores)
        writer.add_token_types(vocabulary.kinds)
        bpe = vocabulary.model == "gpt2"
        SpecialVocab(folder, load_merges=bpe, n_vocab=None if bpe else words).add_to_gguf(writer, quiet=True)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, struct.error) as error:
        raise BadCheckpoint(f"{folder}: its tokenizer files are damaged ({error!r})") from error
    if architecture == "llama" and words == 49152:  # SmolLM and Granite, whose configuration does not say it
        writer.add_add_bos_token(False)


def read_vocabulary(folder: Path, settings: dict[str, Any], words: int) -> Vocabulary:
    """The vocabulary in a model's folder, filled up to `words` tokens."""
    if (folder / "tokenizer.model").is_file():
        return _sentencepiece(folder, settings, words)
    if not (folder / "tokenizer.json").is_file():
        raise BadCheckpoint(f"{folder} has no tokenizer: neither tokenizer.model nor tokenizer.json")
    data = read_json(folder / "tokenizer.json")
    if data["model"].get("type") != "BPE":
        raise BadCheckpoint(f"{folder}: a tokenizer of the type {data['model'].get('type')} is not supported, only BPE and SentencePiece")
    # With bytes to fall back on it is a SentencePiece vocabulary, as transformers rewrites Llama 2's.
    fallback = data["model"].get("byte_fallback")
    vocabulary = Vocabulary("llama", "default", [], [], []) if fallback else Vocabulary("gpt2", _pre(folder, data), [], [])
    _fill(vocabulary, data, folder, words)
    return vocabulary


def _pre(folder: Path, data: dict[str, Any]) -> str:
    """llama.cpp's name for the cut before BPE."""
    steps = data.get("pre_tokenizer") or {}
    steps = steps["pretokenizers"] if steps.get("type") == "Sequence" else [steps]
    rules = tuple(_rule(step) for step in steps)
    if rules not in _PRE_TOKENIZERS:
        raise BadCheckpoint(f"{folder}: its tokenizer cuts texts in a way that is not known here: use convert_hf_to_gguf.py from llama.cpp")
    return _PRE_TOKENIZERS[rules]


def _rule(step: dict[str, Any]) -> tuple[Any, ...]:
    kind = step.get("type")
    if kind == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
        return kind, step["pattern"].get("Regex")
    if kind == "Digits":
        return kind, step["individual_digits"]
    if kind == "ByteLevel" and not step["add_prefix_space"]:
        return kind, step.get("use_regex", True)
    return kind, None, json.dumps(step)


def _fill(vocabulary: Vocabulary, data: dict[str, Any], folder: Path, words: int) -> None:
    """Put the tokens of tokenizer.json in order, the added ones with their kinds, and fill the gaps."""
    texts = {number: text for text, number in data["model"]["vocab"].items()}
    added = {token["id"]: token for token in data.get("added_tokens", [])}
    texts.update((number, token["content"]) for number, token in added.items())
    if max(texts) >= words:
        raise BadCheckpoint(f"{folder}: its tokenizer has {max(texts) + 1} tokens, but the model only {words}")
    for number in range(words):
        text = texts.get(number)
        if text is None:
            text, kind = f"[PAD{number}]", _UNUSED
        elif number in added:
            special = added[number]["special"] or _looks_special(text)
            text, kind = (text, _CONTROL) if special else (text.replace("▁", " "), _USER_DEFINED)
        else:
            kind = _BYTE if vocabulary.scores is not None and _is_byte(text) else _NORMAL
        vocabulary.tokens.append(text)
        vocabulary.kinds.append(kind)
    if vocabulary.scores is not None:
        vocabulary.scores = _scores(data, vocabulary.tokens)


def _scores(data: dict[str, Any], tokens: list[str]) -> list[float]:
    """The scores that make SentencePiece join in the order of the merges: the earlier, the higher."""
    rank: dict[str, int] = {}
    for number, pair in enumerate(data["model"]["merges"]):
        left, right = pair.split(" ", 1) if isinstance(pair, str) else pair
        rank.setdefault(left + right, number)
    return [-float(rank[text]) if text in rank else -1e6 for text in tokens]


def _sentencepiece(folder: Path, settings: dict[str, Any], words: int) -> Vocabulary:
    tokens = [f"[PAD{number}]" for number in range(words)]
    scores, kinds = [-10000.0] * words, [_UNUSED] * words
    for number, (text, score, kind) in enumerate(_pieces((folder / "tokenizer.model").read_bytes())):
        if number < words:
            tokens[number], scores[number] = text, score
            kinds[number] = _NORMAL if kind == _USER_DEFINED else kind
    added: dict[int, tuple[str, int]] = {}
    if (folder / "added_tokens.json").is_file():
        added.update((number, (text, _USER_DEFINED)) for text, number in read_json(folder / "added_tokens.json").items())
    for key, token in settings.get("added_tokens_decoder", {}).items():
        special = token.get("special") or _looks_special(token["content"])
        text = token["content"] if special else token["content"].replace("▁", " ")
        added[int(key)] = text, _CONTROL if special else _USER_DEFINED
    for number, (text, kind) in added.items():
        if 0 <= number < words:
            tokens[number], scores[number], kinds[number] = text, -1000.0, kind
    return Vocabulary("llama", "default", tokens, kinds, scores)


def _pieces(data: bytes) -> Iterator[tuple[str, float, int]]:
    """Text, score and kind of each piece of a SentencePiece model: field 1 of the message, with fields 1, 2 and 3."""
    for field, piece in _fields(data):
        if field == 1 and isinstance(piece, bytes):
            parts = dict(_fields(piece))
            text, score = parts.get(1, b""), parts.get(2, b"\0\0\0\0")
            if not isinstance(text, bytes) or not isinstance(score, bytes):
                raise ValueError("tokenizer.model")
            yield text.decode(), struct.unpack("<f", score)[0], int(parts.get(3, _NORMAL))


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    """The fields of a protocol buffer: number, and value as bytes or, where it is a varint, as a number."""
    position = 0

    def varint() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = data[position]
            position += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while position < len(data):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
            continue
        size = {1: 8, 5: 4}.get(key & 7)
        size = varint() if key & 7 == 2 else size
        if size is None or position + size > len(data):
            raise ValueError("tokenizer.model is cut off or no SentencePiece model")
        yield key >> 3, data[position : position + size]
        position += size


def _is_byte(text: str) -> bool:
    return len(text) == 6 and text.startswith("<0x") and text.endswith(">")


def _looks_special(text: str) -> bool:
    """Control tokens that some tokenizers do not mark as such."""
    return (
        text in ("<pad>", "<mask>") or (text.startswith("<|") and text.endswith("|>")) or (text.startswith("<unused") and text[-1] == ">")
    )
