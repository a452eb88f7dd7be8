"""Is a converted model still the model? Its predictions beside those of the source it was made from, on real prompts.

The source's logits come from its folder by a forward pass of our own that knows nothing of GGUF (or from llama.cpp, where the source is a
GGUF); the converted model's from llama.cpp. The tokens, too, are compared where the `tokenizers` package is installed.
"""

import ctypes
import os
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from promptimal_convert.adapter import Adapter, read_adapter
from promptimal_convert.checkpoint import BadCheckpoint, Checkpoint, open_checkpoint
from promptimal_convert.gguf_file import BadGGUF, Header, read_header
from promptimal_convert.library import llama
from promptimal_convert.soundness import check_model

PROMPTS = [
    "Why do cats purr? Explain the mechanism behind it, with a concrete example.",
    "Write an email to my landlord about the broken heating in flat 3B. Keep it short and polite.",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return fibonacci(n - 1) + fibonacci(n - 2)\n",
    "The mill closed in 1987 after 112 years. Two hundred people lost their jobs, and the river ran clear again for the first time.",
    "Compare point by point: renting and buying a house in a city where prices have doubled within ten years.",
    "Roslyn has twenty boxes. Thirteen of the boxes contain pencils. How many do not? Show each step of the reasoning.",
]
"""Prompts to compare on, where no others are given."""

HARD = [
    "  two blanks first, a tab\tand\n\n\nlines ", "can't WON'T I'll they're 'quoted' \"double\"", "3.14159 1,000,000 12345678901234567890 ½ ²",
    "naïve café Straße ﬁ Ελλάδα Привет 你好，世界 こんにちは 안녕 สวัสดี مرحبا שלום हिन्दी", "🚀👩‍👩‍👧‍👦🏳️‍🌈 e\u0301 \u00a0\u200b\u3000x", "{\"a\": [1, 2, {\"b\": null}]}; x->y != z // ***",
    "<b>HTML</b> &amp; `code` $x_i^2$ \\frac{a}{b} C:\\path\\to", "aaaaaaaaaaaaaaaaaaaaaaaa" * 3, "snake_case camelCase SCREAMING_CASE kebab-case", "", " ",
]  # fmt: skip
"""Texts that tokenizers tend to disagree about."""

LIMITS = {16: 0.005, 8: 0.05, 6: 0.5, 4: 1.5, 0: 3.0}
"""Whole bits a weight → the mean KL divergence above which a model is held to be damaged: several times what rounding
does to SmolLM2-135M, which suffers more from it than larger models do."""


class Result(NamedTuple):
    """One model against its source."""

    perplexity: float
    divergence: float
    worst: float
    agreement: float


def verify(files: list[Path], source: str, adapter: Path | None, text: Path | None) -> int:
    """Print a table, a line a file; 0 where all of them are near their source, else 3. Raises what reading them raises."""
    prompts = _prompts(text) if text else PROMPTS
    checkpoint = None if Path(source).is_file() else open_checkpoint(source)
    read = read_adapter(adapter) if adapter and checkpoint else None
    wrong = False
    print("| model | size | perplexity | KL divergence, mean | largest | same first choice |\n| --- | --- | --- | --- | --- | --- |")
    expected: dict[str, list[np.ndarray]] = {}
    for file in files:
        header = read_header(file)
        check_model(header)
        with Runner(file) as runner:
            tokens = [tokens for prompt in prompts if len(tokens := runner.tokenize(prompt)) > 1]
            key = repr(tokens)
            if key not in expected:
                expected = {key: _expected(checkpoint, read, Path(source), adapter, tokens)}
                _print_row("source", "", compare(expected[key], expected[key], tokens))
            result = compare(expected[key], [runner.logits(one) for one in tokens], tokens)
            wrong |= _report(file, header, result)
            if checkpoint:
                wrong |= _tokens_differ(checkpoint, runner)
    return 3 if wrong else 0


def compare(expected: list[np.ndarray], found: list[np.ndarray], texts: list[list[int]]) -> Result:
    """Perplexity of `found` on the texts, and how far its predictions are from those expected."""
    losses, divergences, same = [], [], []
    for source, model, tokens in zip(expected, found, texts, strict=True):
        p, q = _log_softmax(source), _log_softmax(model)
        divergences.append((np.exp(p) * (p - q)).sum(axis=-1))
        same.append(p.argmax(axis=-1) == q.argmax(axis=-1))
        losses.append(-q[np.arange(len(tokens) - 1), tokens[1:]])
    kl = np.concatenate(divergences)
    return Result(float(np.exp(np.concatenate(losses).mean())), float(kl.mean()), float(kl.max()), float(np.concatenate(same).mean()))


class Runner:
    """A GGUF model in llama.cpp, one text after another."""

    def __init__(self, path: Path, adapter: Path | None = None) -> None:
        self._llama = library = llama()
        parameters = library.llama_model_default_params()
        # Weights as they stand in the file. For AMX llama.cpp packs them anew, and crashes where a virtual machine's processor names it and its
        # kernel does not allow it.
        parameters.use_extra_bufts = False
        self._model = library.llama_model_load_from_file(os.fsencode(path), parameters)
        if not self._model:
            raise BadGGUF(f"llama.cpp cannot load {path}")
        self._vocab = library.llama_model_get_vocab(self._model)
        self.words: int = library.llama_vocab_n_tokens(self._vocab)
        settings = library.llama_context_default_params()
        settings.n_ctx = settings.n_batch = settings.n_ubatch = 2048
        settings.no_perf = True
        self._context = library.llama_init_from_model(self._model, settings)
        if not self._context:
            raise BadGGUF(f"llama.cpp cannot set up {path}: not enough memory?")
        if adapter:
            loaded = library.llama_adapter_lora_init(self._model, os.fsencode(adapter))
            one = (library.llama_adapter_lora_p_ctypes * 1)(loaded)
            if not loaded or library.llama_set_adapters_lora(self._context, one, 1, (ctypes.c_float * 1)(1.0)):
                raise BadGGUF(f"llama.cpp cannot load the adapter {adapter}")

    def __enter__(self) -> "Runner":
        return self

    def __exit__(self, *error: object) -> None:
        self._llama.llama_free(self._context)
        self._llama.llama_model_free(self._model)

    def tokenize(self, text: str, special: bool = True, marks: bool = False) -> list[int]:
        """Token numbers; `special`: with the beginning token where the model wants one; `marks`: control tokens in the text count as such."""
        data = text.encode()
        tokens = (ctypes.c_int32 * (len(data) + 8))()
        count = self._llama.llama_tokenize(self._vocab, data, len(data), tokens, len(data) + 8, special, marks)
        return list(tokens[:count])

    def logits(self, tokens: list[int]) -> np.ndarray:
        """The logits of what follows each token."""
        library = self._llama
        if len(tokens) > 2048:
            raise BadGGUF("a prompt is longer than 2048 tokens: use shorter ones")
        library.llama_memory_clear(library.llama_get_memory(self._context), True)
        with _batch(library, len(tokens)) as batch:
            for i, token in enumerate(tokens):
                batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = token, i, 1, 0, True
            batch.n_tokens = len(tokens)
            if library.llama_decode(self._context, batch):
                raise BadGGUF("llama.cpp could not evaluate a prompt")
        rows = np.ctypeslib.as_array(library.llama_get_logits(self._context), (len(tokens), self.words))
        return rows.copy()


@contextmanager
def _batch(library: Any, count: int) -> Iterator[Any]:
    batch = library.llama_batch_init(max(count, 1), 0, 1)
    try:
        yield batch
    finally:
        library.llama_batch_free(batch)


def _prompts(text: Path) -> list[str]:
    prompts = [line for line in text.read_text(encoding="utf-8", errors="replace").splitlines() if len(line) > 9]
    if not prompts:
        raise BadCheckpoint(f"{text} holds no prompts, one a line, of ten characters or more")
    return prompts


def _expected(
    checkpoint: Checkpoint | None, adapter: Adapter | None, source: Path, gguf_adapter: Path | None, tokens: list[list[int]]
) -> list[np.ndarray]:
    """The source's logits."""
    if checkpoint:
        from promptimal_convert.reference import logits

        return logits(checkpoint, adapter, tokens)
    check_model(read_header(source))
    with Runner(source, gguf_adapter) as runner:
        return [runner.logits(one) for one in tokens]


def _report(file: Path, header: Header, result: Result) -> bool:
    """Print a model's line; True where it is further from its source than its type explains."""
    matrices = [tensor for tensor in header.tensors.values() if len(tensor.shape) > 1]
    bits = 8 * sum(tensor.size for tensor in matrices) / sum(tensor.shape[0] * tensor.shape[1] for tensor in matrices)
    limit = next(limit for least, limit in LIMITS.items() if bits >= least)
    _print_row(file.name, f"{file.stat().st_size / 1e6:.1f} MB", result)
    if result.divergence <= limit:
        return False
    print(f"{file}: a mean divergence of {result.divergence:.3g} is more than {limit}, what {bits:.1f} bits explain", file=sys.stderr)
    return True


def _print_row(name: str, size: str, result: Result) -> None:
    print(f"| {name} | {size} | {result.perplexity:.3f} | {result.divergence:.5f} | {result.worst:.4f} | {100 * result.agreement:.1f}% |")


def _tokens_differ(checkpoint: Checkpoint, runner: Runner) -> bool:
    """Print where llama.cpp cuts a hard text otherwise than the source's own tokenizer does; True where it does."""
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return False
    path = checkpoint.path / "tokenizer.json"
    if not path.is_file():
        return False
    try:
        theirs = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        raise BadCheckpoint(f"{path}: {error}") from error
    # llama.cpp does not compose characters, as Qwen's tokenizer does: compare on texts in which they are composed already.
    texts = [unicodedata.normalize("NFC", text) for text in HARD]
    bad = [text for text in texts if runner.tokenize(text, special=False) != theirs.encode(text, add_special_tokens=False).ids]
    for text in bad:
        print(f"llama.cpp's tokens differ from the source's: {text!r}", file=sys.stderr)
    return bool(bad)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result
