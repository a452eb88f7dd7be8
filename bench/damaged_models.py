"""Damage a model file in many ways and give it to `promptimal --model`: it must answer, or say what is wrong and exit with 1.

python bench/damaged_models.py [how many] [first seed]
"""

import random
import subprocess
import sys
import tempfile
from pathlib import Path

from promptimal import models
from promptimal_convert.gguf_file import NewTensor, entry, read_header, read_tensor, write

BIN = Path(sys.executable).parent


def main(count: int, first: int) -> int:
    """Print what went wrong and the counts; 1 if anything did."""
    wrong = refused = 0
    with tempfile.TemporaryDirectory() as folder:
        sound = _labelled_model(Path(folder) / "sound.gguf")
        data = sound.read_bytes()
        header_end = min(t.offset for t in read_header(sound).tensors.values())
        path = Path(folder) / "damaged.gguf"
        for seed in range(first, first + count):
            path.write_bytes(_damaged(data, header_end, random.Random(seed)))
            try:
                done = subprocess.run(
                    [BIN / "promptimal", "--model", path, "why do cats purr"],
                    stdin=subprocess.DEVNULL, capture_output=True, timeout=60,
                )  # fmt: skip
                code, errors = done.returncode, done.stderr.decode(errors="replace")
            except subprocess.TimeoutExpired:
                code, errors = None, "no end within a minute"
            refused += code == 1
            if code not in (0, 1) or "Traceback" in errors or (code == 1 and errors.count("\n") != 1):
                wrong += 1
                print(f"seed {seed}: exit {code}: {errors[-300:]}")
    print(f"{count} damaged models: {refused} refused with a sentence, {count - refused - wrong} still usable, {wrong} went wrong")
    return 1 if wrong else 0


def _labelled_model(path: Path) -> Path:
    """The default model as `promptimal-convert merge` would write it, so that --model takes it."""
    model = read_header(models.default(lambda text: None).path)
    ours = [raw for key, raw in model.raw.items() if key.startswith("promptimal.asks")]
    entries = [raw for key, raw in model.raw.items() if not key.startswith("promptimal.")] + ours
    tensors = [NewTensor(t.name, t.shape, t.type, lambda t=t: read_tensor(model, t.name)) for t in model.tensors.values()]  # type: ignore[misc]
    write(path, [*entries, entry("promptimal.template", "chatml")], tensors)
    return path


def _damaged(data: bytes, header_end: int, draw: random.Random) -> bytes:
    kind = draw.choice(("cut", "flip", "flip", "number", "number", "text", "weights", "zeros"))
    if kind == "cut":
        return data[: draw.choice((draw.randrange(64), draw.randrange(header_end), draw.randrange(len(data))))]
    damaged = bytearray(data)
    # The interesting keys stand in the first few kilobytes, before the vocabulary, and the tensor table at the end of the header.
    where = draw.choice(
        (lambda: draw.randrange(2000), lambda: draw.randrange(header_end), lambda: draw.randrange(header_end - 20000, header_end))
    )
    if kind == "weights":
        where = lambda: draw.randrange(header_end, len(data) - 8)  # noqa: E731
    for _ in range(draw.choice((1, 1, 3, 20))):
        at = where()
        if kind == "number":
            damaged[at : at + 8] = draw.choice((0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1, draw.randrange(2**64))).to_bytes(8, "little")
        elif kind == "text":
            damaged[at : at + 4] = bytes(draw.randrange(256) for _ in range(4))
        elif kind == "zeros":
            damaged[at : at + 64] = bytes(64)
        else:
            damaged[at] ^= 1 << draw.randrange(8)
    return bytes(damaged[: len(data)])


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000, int(sys.argv[2]) if len(sys.argv) > 2 else 0))
