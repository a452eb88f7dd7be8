"""The command `promptimal-convert`: adapters into GGUF, adapters into models, models into other quantizations.

promptimal-convert adapter runs/mine --base base.gguf --out mine.gguf
promptimal-convert merge base.gguf mine.gguf --type Q8_0 --out merged.gguf
promptimal-convert show merged.gguf
"""

import argparse
import sys
from pathlib import Path

from promptimal_convert.gguf_file import TYPES, Array, BadGGUF, read_header

QUANTIZATIONS = ("F16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0")


def main() -> int:
    """Run the command; its exit code is 0 done, 1 it could not, 2 wrong usage, 130 interrupted."""
    parser = argparse.ArgumentParser(
        prog="promptimal-convert",
        description="Convert LoRA adapters to GGUF, merge them into models, and quantize, without torch.",
        epilog="exit codes: 0 done, 1 it could not, 2 wrong usage, 130 interrupted",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    adapter = commands.add_parser("adapter", help="a PEFT LoRA adapter into a GGUF adapter")
    adapter.add_argument("adapter", type=Path, help="directory with adapter_model.safetensors and adapter_config.json")
    adapter.add_argument("--base", type=Path, required=True, help="the GGUF model that it was trained on")
    adapter.add_argument("--out", type=Path, required=True, help="the GGUF to write")
    merge = commands.add_parser("merge", help="a GGUF adapter into a GGUF model, quantized")
    merge.add_argument("base", type=Path, help="the GGUF model")
    merge.add_argument("adapter", type=Path, nargs="?", help="the GGUF adapter; without it the model is only quantized")
    merge.add_argument("--type", choices=QUANTIZATIONS, default="Q8_0", help="of the matrices (default: %(default)s)")
    merge.add_argument("--out", type=Path, required=True, help="the GGUF to write")
    show = commands.add_parser("show", help="what a GGUF file holds")
    show.add_argument("file", type=Path)
    arguments = parser.parse_args()
    try:
        return {"adapter": _adapter, "merge": _merge, "show": _show}[arguments.command](arguments)
    except (BadGGUF, _Failure) as error:
        print(f"promptimal-convert: {error}", file=sys.stderr)
    except OSError as error:
        print(f"promptimal-convert: {error.filename or 'a file'}: {error.strerror}", file=sys.stderr)
    except KeyboardInterrupt:
        return 130
    return 1


class _Failure(Exception):
    """Something that ends the command, in words."""


def _adapter(arguments: argparse.Namespace) -> int:
    from promptimal_convert.adapter import BadAdapter, convert

    try:
        count = convert(arguments.adapter, arguments.base, arguments.out)
    except BadAdapter as error:
        raise _Failure(str(error)) from error
    print(f"{arguments.out}: changes {count} matrices, {arguments.out.stat().st_size:,} bytes", file=sys.stderr)
    return 0


def _merge(arguments: argparse.Namespace) -> int:
    from promptimal_convert.merge import merge

    merge(arguments.base, arguments.adapter, arguments.out, arguments.type)
    print(f"{arguments.out}: {arguments.type}, {arguments.out.stat().st_size:,} bytes", file=sys.stderr)
    return 0


def _show(arguments: argparse.Namespace) -> int:
    header = read_header(arguments.file)
    for key, value in header.values.items():
        if not isinstance(value, Array):
            print(f"{key} = {value!r}"[:200])
    for tensor in header.tensors.values():
        print(f"{tensor.name}  {TYPES[tensor.type][0]}  {' × '.join(map(str, tensor.shape))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
