"""The command `promptimal`: a rough prompt in, a better one out.

    echo "why do cats purr" | promptimal

It parses, reads, calls and prints; nothing heavy is imported before it is needed.
"""

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, NoReturn

from promptimal import __version__

if TYPE_CHECKING:
    from promptimal import models
    from promptimal.repl.config import Settings
    from promptimal.rewrite import Rewrite

DONE, FAILED, USAGE, UNFAITHFUL, INTERRUPTED = 0, 1, 2, 3, 130

_EPILOG = """\
The prompt is taken from the arguments, files (-f) and standard input, in this order, joined by blank lines. With none of
them, on a terminal, a session opens: suggestions while you type.  promptimal config  prints its settings.

exit codes: 0 done, 1 it could not, 2 wrong usage, 3 only with --strict: something that the model wrote was not faithful and
was left out, 130 interrupted.
environment: PROMPTIMAL_MODEL and PROMPTIMAL_API_BASE stand for --model and --api-base, PROMPTIMAL_API_KEY (or OPENAI_API_KEY)
is the server's key, PROMPTIMAL_THREADS how many threads to use. Without --api-base nothing is sent anywhere.
"""


class _Failure(Exception):
    """Something that ends the command; the message says what is wrong and what to do next."""


def main() -> NoReturn:
    """Run the command and leave with its exit code."""
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    try:
        code = _run(_parser().parse_args())
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:  # who read our output has gone: end quietly, and as any filter does
        if hasattr(signal, "SIGPIPE"):
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            signal.raise_signal(signal.SIGPIPE)
        code = DONE
    except OSError as error:
        print(f"promptimal: cannot read or write: {error.strerror}", file=sys.stderr)
        code = FAILED
    # Leave at once: freeing a model that the process's end frees anyway takes a tenth of a second.
    sys.stderr.flush()
    os._exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="promptimal",
        description="Turn a rough prompt into one that a chatbot answers better, on this machine.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("prompt", nargs="*", help="the prompt; without it, standard input")
    parser.add_argument("-f", "--file", action="append", default=[], metavar="FILE", help="read the prompt from a file")
    parser.add_argument("-n", type=_count, metavar="N", help="print up to N different rewrites, best first")
    parser.add_argument("--json", action="store_true", help="print a JSON object a rewrite, with what changed and how long it took")
    many = parser.add_mutually_exclusive_group()
    many.add_argument("--jsonl", action="store_true", help='many prompts: JSON lines with a "prompt" in, JSON lines out, in order')
    many.add_argument("--lines", action="store_true", help="many prompts: one a line in, one a line out (line ends inside become spaces)")
    many.add_argument("-0", "--null", action="store_true", help="many prompts: each ends with a NUL byte, in and out")
    parser.add_argument("--resume", metavar="FILE", help="with many prompts: append to FILE, after as many prompts as it has lines")
    parser.add_argument(
        "--model", metavar="MODEL", help="a GGUF chat model, instead of the default one; with --api-base the server's name of one"
    )
    parser.add_argument("--api-base", metavar="URL", help="use the model of an OpenAI-compatible server, such as http://localhost:8080/v1")
    parser.add_argument("--seed", type=int, metavar="N", help="draw among the fitting asks; the same seed, the same rewrite")
    parser.add_argument("--strict", action="store_true", help="exit with 3 where something that the model wrote was not faithful")
    parser.add_argument("--private", action="store_true", help="keep no history of this session on a terminal")
    parser.add_argument("-q", "--quiet", action="store_true", help="nothing on stderr but errors")
    parser.add_argument("--version", action="version", version=f"promptimal {__version__}")
    return parser


def _count(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 8:
        raise argparse.ArgumentTypeError("must be a number from 1 to 8")
    return int(text)


def _run(arguments: argparse.Namespace) -> int:
    if sys.stdout is None:
        print("promptimal: standard output is closed", file=sys.stderr)
        return FAILED
    many = arguments.jsonl or arguments.lines or arguments.null
    try:
        if arguments.prompt == ["config"] and not arguments.file and not many:
            return _print_config(arguments)
        if not (arguments.prompt or arguments.file or many or arguments.json or arguments.strict) and _on_a_terminal():
            return _open_repl(arguments)
    except _Failure as failure:
        return _fail(failure)
    arguments.n = arguments.n or 1
    if arguments.resume and (not many or arguments.null):
        _parser().error("--resume goes with --jsonl or --lines")
    if many and (arguments.strict or arguments.json or (arguments.n > 1 and not arguments.jsonl)):
        _parser().error("--strict and --json are for one prompt, -n for one prompt or --jsonl")
    if many and arguments.prompt:
        _parser().error("many prompts come from files (-f) or standard input, not from arguments")
    if not arguments.prompt and not arguments.file and (sys.stdin is None or sys.stdin.isatty()):
        _parser().print_help(sys.stderr)
        return USAGE
    try:
        return _rewrite_many(arguments) if many else _rewrite(_read(arguments), arguments)
    except _Failure as failure:
        return _fail(failure)


def _fail(failure: _Failure) -> int:
    from promptimal.terminal import visible

    print(f"promptimal: {visible(str(failure))}", file=sys.stderr)
    return FAILED


def _on_a_terminal() -> bool:
    """Whether someone sits at a terminal that can move its cursor."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def _open_repl(arguments: argparse.Namespace) -> int:
    settings = _settings(arguments)
    from promptimal.repl import session

    session.run(settings, arguments.seed)
    return DONE


def _print_config(arguments: argparse.Namespace) -> int:
    settings = _settings(arguments)
    from promptimal.repl import config

    _write(config.document(settings))
    return DONE


def _settings(arguments: argparse.Namespace) -> "Settings":
    from promptimal.repl import config

    try:
        return config.read(model=arguments.model, api_base=arguments.api_base, suggestions=arguments.n, private=arguments.private)
    except config.BadConfig as error:
        raise _Failure(str(error)) from None


def _read(arguments: argparse.Namespace) -> str:
    """The prompt that arguments, files and standard input make together, as typed."""
    parts = [" ".join(arguments.prompt)] if arguments.prompt else []
    for name in arguments.file:
        try:
            data = Path(name).read_bytes() if name != "-" else sys.stdin.buffer.read()
        except OSError as error:
            raise _Failure(f"cannot read {name}: {error.strerror}") from None
        parts.append(_decode(data, name))
    if "-" not in arguments.file and sys.stdin is not None and not sys.stdin.isatty():
        parts.append(_decode(sys.stdin.buffer.read(), "standard input"))
    prompt = "\n\n".join(part for part in parts if part.strip())
    if not prompt.strip():
        raise _Failure('the prompt is empty: try  promptimal "explain recursion"')
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise _Failure("the prompt is not valid UTF-8: convert it first, for example with iconv") from None
    return prompt


def _decode(data: bytes, name: str) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _Failure(f"{name} is not valid UTF-8 (byte {error.start}): convert it first, for example with iconv") from None
    if "\0" in text:
        raise _Failure(f"{name} has NUL bytes in it: is it a text?")
    return text


def _rewrite(prompt: str, arguments: argparse.Namespace) -> int:
    from promptimal import models
    from promptimal.engine import BadModel

    started = time.monotonic()
    stream = sys.stdout.isatty() and not arguments.json and arguments.n == 1
    shown = _Shown()
    try:
        rewriter = models.load(_choice(arguments), lambda text: _say(text, arguments), seed=arguments.seed)
        loaded = time.monotonic()
        rewrites = rewriter.rewrite(prompt, arguments.n, shown if stream else None)
    except BadModel as error:
        raise _Failure(str(error)) from None
    ended = time.monotonic()
    if arguments.json:
        timings = {"load": round(loaded - started, 3), "rewrite": round(ended - loaded, 3)}
        text = "".join(json.dumps(_as_json(r, rewriter.name, timings), ensure_ascii=False) + "\n" for r in rewrites)
    else:
        text = "\n\n".join(r.text for r in rewrites) + "\n"
    if stream:
        shown.finish(rewrites[0].text)
    else:
        _write(text)
    best = rewrites[0]
    if best.faults and not best.asks:  # nothing of the model's is left
        _say(f"the prompt stands as typed: what the model wrote had a fault ({best.faults[0]})", arguments)
    return UNFAITHFUL if arguments.strict and best.faults else DONE


def _rewrite_many(arguments: argparse.Namespace) -> int:
    from itertools import chain, islice

    from promptimal import batch, models
    from promptimal.engine import BadModel

    try:
        streams: list[IO[bytes]] = [sys.stdin.buffer if name == "-" else Path(name).open("rb") for name in arguments.file or ["-"]]  # noqa: SIM115
    except OSError as error:
        raise _Failure(f"cannot read {error.filename}: {error.strerror}") from None
    read = batch.read_jsonl if arguments.jsonl else lambda s: batch.read_separated(s, b"\0" if arguments.null else b"\n")
    jobs = chain.from_iterable(map(read, streams))
    out, skip, count = sys.stdout.buffer, 0, 0
    if arguments.resume:
        path = Path(arguments.resume)
        try:
            if path.exists() and any(os.path.samestat(path.stat(), os.fstat(stream.fileno())) for stream in streams):
                raise _Failure(f"{path} is the input: name another file to write to")
            out, skip = batch.open_resumed(path, batch.is_jsonl_output if arguments.jsonl else lambda line: True)
        except OSError as error:
            raise _Failure(f"cannot write {path}: {error.strerror}") from None
        except ValueError as error:
            raise _Failure(f"{error}: is it the file that --resume wrote before?") from None
        if skip:
            _say(f"{arguments.resume} has {skip:,} lines: going on after them", arguments)

    def write(job: batch.Job, rewrites: "list[Rewrite]") -> None:
        nonlocal count
        count += 1
        if job.error:
            _say(f"prompt {skip + count:,} is left out: {job.error}", arguments)
        if arguments.jsonl:
            answer = {"error": job.error} if job.error else _batch_json(rewrites)
            line = json.dumps({**job.fields, **answer}, ensure_ascii=False)
            out.write(line.encode(errors="backslashreplace") + b"\n")  # half a surrogate pair stays an escape, as it came
        else:
            text = "" if job.error else rewrites[0].text
            out.write((" ".join(text.split("\n")) + "\n" if arguments.lines else text + "\0").encode())
        out.flush()

    try:
        rewriter = models.load(_choice(arguments), lambda text: _say(text, arguments), True, arguments.seed)
        progress = not arguments.quiet and sys.stderr.isatty()
        failed = batch.run(islice(jobs, skip, None), rewriter, arguments.n, write, progress)
    except BadModel as error:
        raise _Failure(str(error)) from None
    return FAILED if failed else DONE


def _choice(arguments: argparse.Namespace) -> "models.Choice":
    from promptimal.models import Choice

    return Choice(arguments.api_base, arguments.model).filled()


def _batch_json(rewrites: "list[Rewrite]") -> dict[str, object]:
    best = rewrites[0]
    answer: dict[str, object] = {"rewrite": best.text, "asks": list(best.asks), "score": round(best.score, 4), "kept": best.kept}
    if len(rewrites) > 1:
        answer["others"] = [{"rewrite": r.text, "score": round(r.score, 4)} for r in rewrites[1:]]
    return answer


def _as_json(rewrite: "Rewrite", model: str, timings: dict[str, float]) -> dict[str, object]:
    return {
        "prompt": rewrite.prompt,
        "rewrite": rewrite.text,
        "request": rewrite.request,
        "asks": list(rewrite.asks),
        "score": round(rewrite.score, 4),
        "kept": rewrite.kept,
        "faults": list(rewrite.faults),
        "model": model,
        "seconds": timings,
    }


class _Shown:
    """What a terminal has been shown so far: the request as soon as it stands, then the asks."""

    def __init__(self) -> None:
        self.text = ""

    def __call__(self, text: str) -> None:
        _write(text)
        self.text = text

    def finish(self, text: str) -> None:
        _write(text[len(self.text) :] + "\n")


def _write(text: str) -> None:
    """To a pipe the bytes as they are, in one write; to a terminal nothing that could move its cursor."""
    if sys.stdout.isatty():
        from promptimal.terminal import visible

        text = visible(text)
    sys.stdout.buffer.write(text.encode())
    sys.stdout.buffer.flush()


def _say(text: str, arguments: argparse.Namespace) -> None:
    if not arguments.quiet:
        from promptimal.terminal import visible

        print(f"promptimal: {visible(text)}", file=sys.stderr, flush=True)
