"""Many prompts in, a line out for each, in their order: `promptimal --jsonl < prompts.jsonl > rewrites.jsonl`.

Memory does not grow with the input: a prompt is read when there is room for it, and each line is written as soon as it and all
before it are done. A line that cannot be rewritten gives a line that says why.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from promptimal.rewrite import Rewrite, Rewriter
from promptimal.server import ServerRewriter


class Job(NamedTuple):
    """One input line: the prompt, or what is wrong with the line, and the fields that its output line keeps."""

    prompt: str
    error: str
    fields: dict[str, Any]


def read_jsonl(stream: IO[bytes]) -> Iterator[Job]:
    """JSON objects, one a line, whose "prompt" is a text; a bare JSON string counts as a prompt."""
    for line in stream:
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            json.dumps(record)  # what comes back with the rewrite must be writable
        except (ValueError, RecursionError) as error:
            yield Job("", f"not JSON: {str(error)[:100]}", {})
            continue
        if isinstance(record, str):
            record = {"prompt": record}
        if not isinstance(record, dict) or not isinstance(record.get("prompt"), str):
            yield Job("", 'no text "prompt" in it', {})
            continue
        record.pop("error", None)  # of an earlier run over the same lines
        yield _job(record["prompt"], record)


def read_separated(stream: IO[bytes], separator: bytes) -> Iterator[Job]:
    """Prompts that end with a separator: a line feed or a NUL byte."""
    rest = stream.read(3).removeprefix(b"\xef\xbb\xbf")  # a byte order mark is no part of the first prompt
    while block := stream.read1(1 << 16):  # type: ignore[attr-defined]
        *whole, rest = (rest + block).split(separator)
        for data in whole:
            yield _decoded(data)
    if rest:
        yield from map(_decoded, rest.removesuffix(separator).split(separator))


def run(
    jobs: Iterator[Job], rewriter: Rewriter | ServerRewriter, n: int, write: Callable[[Job, list[Rewrite]], None], progress: bool
) -> int:
    """Rewrite all jobs in order; the number of those that could not be."""
    pending: list[Job] = []
    failed = done = 0
    started = last = time.monotonic()

    def prompts() -> Iterator[str]:
        for job in jobs:
            pending.append(job)
            yield job.prompt

    for rewrites in rewriter.rewrite_all(prompts(), n):
        job = pending.pop(0)
        job = job._replace(error=job.error or rewrites[0].error)
        write(job, rewrites)
        done += 1
        failed += bool(job.error)
        now = time.monotonic()
        if progress and now - last > 0.5:
            last = now
            print(f"\r{done:,} prompts, {done / (now - started):.1f} a second ", end="", file=sys.stderr, flush=True)
    if progress and done:
        seconds = time.monotonic() - started
        print(f"\r{done:,} prompts in {seconds:.0f} s, {done / seconds:.1f} a second, {failed:,} failed", file=sys.stderr)
    return failed


def open_resumed(path: Path, is_output: Callable[[bytes], bool]) -> tuple[IO[bytes], int]:
    """A file of output lines to append to, and how many whole lines it holds; half a line at its end is cut off.

    Raises ValueError, with the file as it was, where its last whole line is no output line.
    """
    file = path.open("a+b")
    file.seek(0)
    whole = end = 0
    last = b""
    for line in file:
        if not line.endswith(b"\n"):
            break
        whole += 1
        end += len(line)
        last = line
    if last and not is_output(last):
        raise ValueError(f"the last line of {path} is no output of this command")
    file.truncate(end)
    file.seek(0, 2)
    return file, whole


def is_jsonl_output(line: bytes) -> bool:
    """Whether a line is one that `--jsonl` wrote."""
    try:
        record = json.loads(line)
    except ValueError:
        return False
    return isinstance(record, dict) and ("rewrite" in record or "error" in record)


def _decoded(data: bytes) -> Job:
    try:
        return _job(data.decode().removesuffix("\r"), {})
    except UnicodeDecodeError as error:
        return Job("", f"not valid UTF-8 (byte {error.start})", {})


def _job(prompt: str, fields: dict[str, Any]) -> Job:
    if not prompt.strip():
        return Job("", "the prompt is empty", fields)
    try:
        prompt.encode()
    except UnicodeEncodeError:
        return Job("", "the prompt has half a surrogate pair in it", fields)
    return Job(prompt, "", fields)
