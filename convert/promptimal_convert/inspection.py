"""What a GGUF file holds, in lines: its header's values, how its weights are stored, and every tensor."""

from collections import Counter
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

from promptimal_convert.gguf_file import TYPES, Array, read_header


def lines(path: Path) -> Iterator[str]:
    """Describe the file. Raises BadGGUF, OSError."""
    header = read_header(path)
    kinds: Counter[str] = Counter()
    values = 0
    for tensor in header.tensors.values():
        kinds[TYPES[tensor.type][0]] += tensor.size
        values += prod(tensor.shape)
    size = path.stat().st_size
    yield f"{size:,} bytes, {values:,} values in {len(header.tensors)} tensors, {8 * sum(kinds.values()) / max(values, 1):.2f} bits a value"
    yield ", ".join(f"{kind} {count / 1e6:.1f} MB" for kind, count in kinds.most_common())
    for key, value in header.values.items():
        yield f"{key} = {_shown(value)}"
    for tensor in header.tensors.values():
        yield f"{tensor.name}  {TYPES[tensor.type][0]}  {' × '.join(map(str, tensor.shape))}"


def _shown(value: Any) -> str:
    if isinstance(value, Array):
        return f"[{value.count:,} values]"
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}… ({len(text):,} characters)"
