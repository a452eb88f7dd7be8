"""The command `promptimal-convert`: a model and an adapter into a small GGUF, in one pass.

promptimal-convert meta-llama/Llama-2-7b-chat-hf runs/mine -o mine.gguf --type q4_k_m
promptimal-convert adapter runs/mine --base base.gguf -o adapter.gguf
promptimal-convert merge base.gguf adapter.gguf -o mine.gguf --type q8_0
promptimal-convert quantize mine.gguf -o small.gguf --type q4_0
promptimal-convert inspect small.gguf
promptimal-convert verify small.gguf --source meta-llama/Llama-2-7b-chat-hf --adapter runs/mine
"""

import argparse
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from promptimal_convert.gguf_file import BadGGUF

QUANTIZATIONS = ("F16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")
"""The plain types: for a model with rows in no multiple of 256, such as SmolLM2-135M's, K-quants fall back to these."""

_COMMANDS = ("adapter", "merge", "quantize", "inspect", "verify")


def main() -> int:
    """Run the command; its exit code is 0 done, 1 it could not, 2 wrong usage, 3 (verify) the models differ, 130 interrupted."""
    words = sys.argv[1:]
    parser = _parser(one_pass=bool(words) and words[0] not in _COMMANDS and not words[0].startswith("-"))
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, _stop)
    try:
        return int(arguments.run(arguments))
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        print(f"promptimal-convert: {error.filename or 'a file'}: {error.strerror}", file=sys.stderr)
    except _failures() as error:
        print(f"promptimal-convert: {error}", file=sys.stderr)
    return 1


def _parser(one_pass: bool) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="promptimal-convert",
        usage=None if one_pass else "promptimal-convert BASE [ADAPTER] -o OUT [--type TYPE]\n       promptimal-convert command …",
        description="Convert models and LoRA adapters to GGUF, merge, quantize, inspect and verify, without torch.",
        epilog="exit codes: 0 done, 1 it could not, 2 wrong usage, 3 (verify) the models differ, 130 interrupted",
    )
    if one_pass:
        parser.add_argument("base", help="folder with config.json and weights, its name on the hub, or a GGUF")
        parser.add_argument(
            "adapter", type=Path, nargs="?", help="directory with a PEFT LoRA adapter; without it the base is converted alone"
        )
        _add_output(parser)
        parser.set_defaults(run=_convert)
        return parser
    commands = parser.add_subparsers(required=True, metavar="command")
    adapter = commands.add_parser("adapter", help="a PEFT LoRA adapter into a GGUF adapter, for any llama.cpp's --lora")
    adapter.add_argument("adapter", type=Path, help="directory with adapter_model.safetensors and adapter_config.json")
    adapter.add_argument("--base", type=Path, required=True, help="the GGUF model that it was trained on")
    adapter.add_argument("-o", "--out", type=Path, required=True, help="the GGUF to write")
    adapter.set_defaults(run=_adapter)
    merge = commands.add_parser("merge", help="a GGUF adapter into a GGUF model")
    merge.add_argument("base", type=Path, help="the GGUF model")
    merge.add_argument("adapter", type=Path, help="the GGUF adapter")
    _add_output(merge)
    merge.set_defaults(run=_merge)
    quantize = commands.add_parser("quantize", help="a GGUF model into another type")
    quantize.add_argument("base", type=Path, help="the GGUF model, best in F16")
    _add_output(quantize)
    quantize.set_defaults(run=_merge, adapter=None)
    inspect = commands.add_parser("inspect", help="what a GGUF file holds")
    inspect.add_argument("file", type=Path)
    inspect.set_defaults(run=_inspect)
    verify = commands.add_parser("verify", help="compare converted models with their source: perplexity, KL divergence, a table")
    verify.add_argument("files", type=Path, nargs="+", metavar="file", help="GGUF models made from the source")
    verify.add_argument("--source", required=True, help="the base they were made from: folder, name on the hub, or GGUF")
    verify.add_argument("--adapter", type=Path, help="the adapter they were made with")
    verify.add_argument("--text", type=Path, help="a file of prompts, one a line, instead of those built in")
    verify.set_defaults(run=_verify)
    return parser


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--out", type=Path, required=True, help="the GGUF to write; of several types each gets its type in its name")
    parser.add_argument("--type", type=_types, default=["Q8_0"], help="such as q4_k_m, q8_0 or f16; several with commas (default: q8_0)")
    parser.add_argument("--imatrix", type=Path, help="importance matrix in GGUF, from llama-imatrix")


def _types(text: str) -> list[str]:
    from promptimal_convert.quantize import MODEL_TYPES

    types = list(dict.fromkeys(text.upper().split(",")))
    for name in types:
        if name not in MODEL_TYPES:
            raise argparse.ArgumentTypeError(f"{name.lower()!r} is none of {', '.join(MODEL_TYPES).lower()}")
    return types


def _failures() -> tuple[type[Exception], ...]:
    """What is told in a sentence."""
    from promptimal_convert.adapter import BadAdapter
    from promptimal_convert.checkpoint import BadCheckpoint
    from promptimal_convert.library import NoLibrary

    return BadAdapter, BadCheckpoint, BadGGUF, NoLibrary


def _convert(arguments: argparse.Namespace) -> int:
    base = Path(arguments.base)
    if base.is_file():
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            return _produce(arguments, lambda: _gguf_with_adapter(base, arguments.adapter, Path(folder) / "adapter.gguf"))
    from promptimal_convert.adapter import read_adapter
    from promptimal_convert.checkpoint import open_checkpoint
    from promptimal_convert.folder import open_model

    adapter = read_adapter(arguments.adapter) if arguments.adapter else None
    return _produce(arguments, lambda: open_model(open_checkpoint(arguments.base), adapter))


def _gguf_with_adapter(base: Path, adapter: Path | None, converted: Path) -> Any:
    """A GGUF base with a PEFT adapter, by way of a GGUF adapter, `converted`."""
    from promptimal_convert.adapter import convert
    from promptimal_convert.merge import open_gguf

    if adapter is None:
        return open_gguf(base)
    convert(adapter, base, converted)
    return open_gguf(base, converted)


def _adapter(arguments: argparse.Namespace) -> int:
    from promptimal_convert.adapter import convert

    count = convert(arguments.adapter, arguments.base, arguments.out)
    print(f"{arguments.out}: changes {count} matrices, {arguments.out.stat().st_size:,} bytes", file=sys.stderr)
    return 0


def _merge(arguments: argparse.Namespace) -> int:
    from promptimal_convert.merge import open_gguf

    return _produce(arguments, lambda: open_gguf(arguments.base, arguments.adapter))


def _produce(arguments: argparse.Namespace, open_source: Callable[[], Any]) -> int:
    """Write every type that is wanted, in one pass."""
    from promptimal_convert.produce import Target, produce
    from promptimal_convert.quantize import read_importance

    importance = read_importance(arguments.imatrix) if arguments.imatrix else {}
    out: Path = arguments.out
    if not out.absolute().parent.is_dir():
        raise FileNotFoundError(2, "no such directory", str(out.absolute().parent))
    paths = {kind: out if len(arguments.type) == 1 else out.with_name(f"{out.stem}-{kind.lower()}{out.suffix}") for kind in arguments.type}
    produce(open_source(), [Target(path, kind, importance) for kind, path in paths.items()], _progress())
    for kind, path in paths.items():
        print(f"{path}: {kind}, {path.stat().st_size:,} bytes", file=sys.stderr)
    return 0


def _progress() -> Callable[[int, int], None]:
    """How far it is and how long it will take, once a second, on a terminal."""
    started = last = time.monotonic()
    shown = sys.stderr.isatty()

    def show(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if not shown or now - last < 1:
            return
        last = now
        left = round((now - started) * (total - done) / max(done, 1))
        print(
            f"\r{done * 100 // total:3d}%  {done / 1e9:.2f} of {total / 1e9:.2f} GB, {left // 60}:{left % 60:02d} left  ",
            end="",
            file=sys.stderr,
        )

    def end(done: int, total: int) -> None:
        show(done, total)
        if shown and done >= total:
            print("\r\x1b[K", end="", file=sys.stderr)

    return end


def _inspect(arguments: argparse.Namespace) -> int:
    from promptimal_convert.inspection import lines

    for line in lines(arguments.file):
        print(line)
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from promptimal_convert.verify import verify

    return verify(arguments.files, arguments.source, arguments.adapter, arguments.text)


def _stop(number: int, frame: object) -> NoReturn:
    """Asked to end: leave nothing half written."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
