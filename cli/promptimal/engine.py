"""The one loop around llama.cpp: many tasks, each with its own sequences, share every batch.

A task is a generator. It yields the tokens that it wants evaluated, sequence by sequence, and gets back, for each of
them, the logits of what may follow. It returns its result:

    def task(sequences):
        seq = sequences.open()
        rows = yield [Feed(seq, prompt_tokens)]     # rows[0][-1] is what may follow the prompt
        branch = sequences.fork(seq)                # shares the prompt's cells, costs nothing
        rows = yield [Feed(seq, a), Feed(branch, b)]
        ...

One task alone, several branches of one prompt, and a thousand prompts run through the same lines: whatever the active
tasks want goes into one `llama_decode`.
"""

import contextlib
import ctypes
import importlib.util
import os
import sys
import threading
import types
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

BATCH = 512
"""Tokens a llama_decode."""


class BadModel(Exception):
    """A model that cannot be loaded; the message says what to do."""


class Feed(NamedTuple):
    """Tokens to append to a sequence.

    What comes back is a list of one array, the logits of what may follow, shape (vocabulary); with `every` one such array for each
    token; with `state` (of an engine with `states`) another behind the last: the model's hidden state after its final norm, shape (hidden size).
    """

    sequence: int
    tokens: list[int]
    every: bool = False
    state: bool = False


Task = Generator[list[Feed], Any, Any]


class _Wanted(NamedTuple):
    """One token to evaluate, and the list that what comes of it goes to."""

    rows: list[Any]
    token: int
    position: int
    sequence: int
    output: bool


@dataclass
class _Active:
    """A task under way, with what it wants evaluated and what has come back."""

    key: int
    task: Task
    sequences: "Sequences"
    feeds: list[Feed]
    rows: list[Any]


class Kept(NamedTuple):
    """A sequence that outlives its task."""

    sequence: int
    length: int


class Sequences:
    """The sequences of one task. Numbers come from the engine's pool and go back to it with `close` or at the task's end."""

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine
        self.length: dict[int, int] = {}

    def open(self) -> int:
        """A new, empty sequence."""
        number = self._engine.free.pop()
        self.length[number] = 0
        return number

    def fork(self, sequence: int) -> int:
        """A new sequence that begins with all of `sequence`; the cells are shared, nothing is computed."""
        return self.borrow(Kept(sequence, self.length[sequence]))

    def keep(self, sequence: int) -> "Kept":
        """Take a sequence out of this task: it stays for others to `borrow`."""
        return Kept(sequence, self.length.pop(sequence))

    def borrow(self, kept: "Kept") -> int:
        """A new sequence that begins with all of a kept one."""
        number = self.open()
        self._engine.copy_cells(kept.sequence, number)
        self.length[number] = kept.length
        return number

    def close(self, sequence: int) -> None:
        """Give a sequence back."""
        del self.length[sequence]
        self._engine.clear_cells(sequence)
        self._engine.free.append(sequence)

    def close_all(self) -> None:
        for sequence in list(self.length):
            self.close(sequence)


class Engine:
    """A loaded model.

    `width` is how many sequences one task may hold, `slots` how many tasks run at once, `context` how many tokens a task may need,
    `processors` how many to compute with (all that there are), `beside` an engine of the same file, whose weights are shared. With `states`
    it gives hidden states too; it then holds one sequence. Raises BadModel where llama.cpp refuses the file.
    """

    def __init__(
        self,
        model: Path,
        *,
        width: int,
        slots: int = 1,
        context: int = 1536,
        adapter: Path | None = None,
        processors: int | None = None,
        beside: "Engine | None" = None,
        states: bool = False,
    ) -> None:
        self.path, self.width, self.slots, self.context = model, width, slots, context
        self._lib = llama = _load_library()
        self._owns_model = beside is None
        with _quiet(llama):
            self._model: Any = beside._model if beside else _loaded(llama, model)
            self._vocab = llama.llama_model_get_vocab(self._model)
            self.words = llama.llama_vocab_n_tokens(self._vocab)
            self.hidden = llama.llama_model_n_embd(self._model)
            settings = llama.llama_context_default_params()
            settings.n_ctx = context * slots
            settings.n_batch = settings.n_ubatch = BATCH
            settings.n_seq_max = width * slots
            settings.n_threads = settings.n_threads_batch = processors or threads()
            # A task's sequences share their prompt's cells. Where it has but one, that one gets cells of its own: attention is then summed
            # in the same order whatever runs beside it, and many prompts together give what each gives alone.
            settings.kv_unified = width > 1
            if settings.kv_unified and not llama.llama_supports_gpu_offload():
                # On a processor llama.cpp's flash attention goes through the cells for each token by itself; as products of matrices, many tokens that
                # share a long instruction take three fifths of the time (bench/README.md).
                settings.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
            settings.no_perf = True
            self._states = _States(llama, self.hidden) if states else None
            if self._states:
                settings.cb_eval = self._states.callback
            self._context = llama.llama_init_from_model(self._model, settings)
            if not self._context:
                if self._owns_model:
                    llama.llama_model_free(self._model)
                raise BadModel(f"llama.cpp cannot set up {model}: not enough memory?")
            if adapter is not None:
                self._apply(adapter)
        self._memory = llama.llama_get_memory(self._context)
        self._batch = llama.llama_batch_init(BATCH, 0, 1)
        self.free = list(reversed(range(width * slots)))

    def close(self) -> None:
        """Free what it holds, last the engine that others stand beside. The process's end does so as well."""
        self._lib.llama_batch_free(self._batch)
        self._lib.llama_free(self._context)
        if self._owns_model:
            self._lib.llama_model_free(self._model)

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        """Token numbers of a text. Only with `special` do control tokens written in it count as such."""
        data = text.encode()
        size = len(data) + 8
        tokens = (ctypes.c_int32 * size)()
        count = self._lib.llama_tokenize(self._vocab, data, len(data), tokens, size, False, special)
        return list(tokens[:count])

    def piece(self, token: int) -> bytes:
        """The bytes that a token stands for; none for a control token."""
        buffer = ctypes.create_string_buffer(256)
        count = self._lib.llama_token_to_piece(self._vocab, token, buffer, 256, 0, False)
        return buffer.raw[:count] if count > 0 else b""

    def ends(self, token: int) -> bool:
        """Whether a token ends an answer."""
        return bool(self._lib.llama_vocab_is_eog(self._vocab, token))

    def chat(self, messages: list[dict[str, str]]) -> str:
        """Messages in the model's own chat template, up to where its answer begins. Raises BadModel where llama.cpp does not know the template."""
        template = self._lib.llama_model_chat_template(self._model, None)
        chat = (self._lib.llama_chat_message * len(messages))(*((m["role"].encode(), m["content"].encode()) for m in messages))
        size = 4096 + 4 * sum(len(m["content"]) for m in messages)
        buffer = ctypes.create_string_buffer(size)
        count = self._lib.llama_chat_apply_template(template, chat, len(messages), True, buffer, size) if template else -1
        if not 0 < count <= size:
            raise BadModel(
                f"{self.path} has no chat template that llama.cpp knows: use a chat (instruct) model, or run it behind a server (--api-base)"
            )
        start = self.piece_of_start()
        return start + buffer.raw[:count].decode().removeprefix(start)

    def piece_of_start(self) -> str:
        """The text of the token that this model wants at the beginning of every input, "" where it wants none."""
        if not self._lib.llama_vocab_get_add_bos(self._vocab):
            return ""
        text: bytes = self._lib.llama_vocab_get_text(self._vocab, self._lib.llama_vocab_bos(self._vocab))
        return text.decode()

    def run(self, tasks: Iterable[Callable[[Sequences], Task]], is_ready: Callable[[], bool] = lambda: True) -> Iterator[tuple[int, Any]]:
        """Run tasks, up to `slots` at once, and yield (number, result) as each one ends, in no fixed order.

        While some are under way, another is fetched only if `is_ready` says that it need not be waited for.
        """
        waiting = enumerate(iter(tasks))
        active: list[_Active] = []
        more = True
        try:
            while active or more:
                while more and len(active) < self.slots and (not active or is_ready()):
                    key, start = next(waiting, (0, None))
                    if start is None:
                        more = False
                        break
                    sequences = Sequences(self)
                    entry = _Active(key, start(sequences), sequences, [], [])
                    if self._advance(entry, None):
                        active.append(entry)
                    else:
                        yield key, entry.rows[0]
                        if active:  # go on with what is under way: a run of tasks that end at once must not hold it up
                            break
                self._evaluate(active)
                for entry in list(active):
                    if not self._advance(entry, entry.rows):
                        active.remove(entry)
                        yield entry.key, entry.rows[0]
        finally:
            for entry in active:
                entry.task.close()
                entry.sequences.close_all()

    def one(self, start: Callable[[Sequences], Task]) -> Any:
        """Run one task and give its result."""
        return next(self.run([start]))[1]

    def copy_cells(self, source: int, target: int) -> None:
        self._lib.llama_memory_seq_cp(self._memory, source, target, -1, -1)

    def clear_cells(self, sequence: int) -> None:
        self._lib.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def _advance(self, entry: _Active, rows: list[Any] | None) -> bool:
        """Let a task go on; False when it has ended, with its result in `rows[0]`."""
        try:
            entry.feeds = entry.task.send(rows)
            return True
        except StopIteration as end:
            entry.sequences.close_all()
            entry.rows = [end.value]
            return False
        except BaseException:
            entry.sequences.close_all()
            raise

    def _evaluate(self, active: list[_Active]) -> None:
        """Evaluate what all active tasks want, in as few batches as it fits, and put the rows into each task."""
        wanted: list[_Wanted] = []
        for entry in active:
            entry.rows = [[] for _ in entry.feeds]
            for rows, feed in zip(entry.rows, entry.feeds, strict=True):
                start = entry.sequences.length[feed.sequence]
                last = len(feed.tokens) - 1
                for i, token in enumerate(feed.tokens):
                    wanted.append(_Wanted(rows, token, start + i, feed.sequence, feed.every or i == last))
                entry.sequences.length[feed.sequence] = start + len(feed.tokens)
        self._decode(wanted)
        for entry in active:
            for rows, feed in zip(entry.rows, entry.feeds, strict=True):
                if feed.state:
                    assert self._states, "an engine made without states has none to give"
                    rows.append(self._states.take(self.path))

    def _decode(self, wanted: list["_Wanted"]) -> None:
        batch = self._batch
        for begin in range(0, len(wanted), BATCH):
            part = wanted[begin : begin + BATCH]
            for i, (_, token, position, sequence, output) in enumerate(part):
                batch.token[i] = token
                batch.pos[i] = position
                batch.n_seq_id[i] = 1
                batch.seq_id[i][0] = sequence
                batch.logits[i] = output
            batch.n_tokens = len(part)
            with _raising_after():
                status = self._lib.llama_decode(self._context, batch)
            if status:
                raise BadModel(f"llama.cpp could not evaluate a batch (status {status}): the prompt may be too long")
            for i, todo in enumerate(part):
                if todo.output:
                    todo.rows.append(self._logits(i))

    def _logits(self, index: int) -> Any:
        import numpy as np

        pointer = self._lib.llama_get_logits_ith(self._context, index)
        return np.ctypeslib.as_array(pointer, (self.words,)).copy()  # the next batch overwrites them

    def _apply(self, adapter: Path) -> None:
        llama = self._lib
        loaded = llama.llama_adapter_lora_init(self._model, os.fsencode(adapter))
        if not loaded:
            raise BadModel(f"llama.cpp cannot load the adapter {adapter}")
        array = (llama.llama_adapter_lora_p_ctypes * 1)(loaded)
        scales = (ctypes.c_float * 1)(1.0)
        if llama.llama_set_adapters_lora(self._context, array, 1, scales):
            raise BadModel(f"llama.cpp cannot apply the adapter {adapter}")


class _States:
    """Takes the hidden state of what was evaluated last out of llama.cpp's graph, while it is computed.

    Asked for its embeddings, llama.cpp gives every token of a batch its output layer, a fifth of the work; so a prompt's last token had to be read
    by itself. Its scheduler shows each node instead, before (`ask`) and after it is computed: a millisecond a batch, a sixth less than reading twice.
    """

    _NODE = b"result_norm"  # every architecture's name for what its output layer reads

    def __init__(self, llama: Any, hidden: int) -> None:
        ggml = llama.load_shared_library("ggml-base", Path(llama._lib._name).parent)
        name, size, get = ggml.ggml_get_name, ggml.ggml_nbytes, ggml.ggml_backend_tensor_get
        name.argtypes, name.restype = [ctypes.c_void_p], ctypes.c_char_p
        size.argtypes, size.restype = [ctypes.c_void_p], ctypes.c_size_t
        get.argtypes, get.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t], None
        row = (ctypes.c_float * hidden)()
        length = ctypes.sizeof(row)
        self._row, self._fresh = row, False  # the last row of the last batch: one sequence, of which the last token is asked for

        def seen(node: int, ask: bool, data: object) -> bool:
            if ask:
                return bool(name(node) == self._NODE)
            if size(node) >= length:
                get(node, row, size(node) - length, length)
                self._fresh = True
            return True

        self.callback = llama.ggml_backend_sched_eval_callback(seen)

    def take(self, path: Path) -> Any:
        """The state, shape (hidden size). Raises BadModel where there is none."""
        import numpy as np

        if not self._fresh:
            raise BadModel(f"{path}: llama.cpp does not show what this model's output layer reads")
        self._fresh = False
        return np.array(self._row, dtype=np.float32)


@contextlib.contextmanager
def _raising_after() -> Iterator[None]:
    """What a signal's handler raises while C calls back gets no further than the callback: raise it after the block, so that Ctrl-C is not lost."""
    if threading.current_thread() is not threading.main_thread():  # the one that handlers run in
        yield
        return
    lost: list[BaseException] = []
    before, sys.unraisablehook = sys.unraisablehook, lambda told: lost.append(told.exc_value or KeyboardInterrupt())
    try:
        yield
    finally:
        sys.unraisablehook = before
    if lost:
        raise lost[0]


def log_probability(logits: Any, token: int) -> float:
    """The log-probability of a token, in nats. A pass over the vocabulary: only for who wants to know."""
    import numpy as np

    top = logits.max()
    return float(logits[token] - top - np.log(np.exp(logits - top).sum()))


def threads() -> int:
    """Threads to compute with: the processors this process may use, where the system tells; `PROMPTIMAL_THREADS` overrides."""
    chosen = os.environ.get("PROMPTIMAL_THREADS", "")
    if chosen.isdigit() and int(chosen) > 0:
        return int(chosen)
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # a container's share of the processors, where it has one
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        count = min(count, max(1, round(int(quota) / int(period))))
    return count


def _loaded(llama: Any, path: Path) -> Any:
    """A model's weights. Raises BadModel."""
    parameters = llama.llama_model_default_params()
    # Weights as they stand in the file can be mapped. Repacked for the processor they take longer to load than one rewrite
    # gains, and round otherwise: one prompt and many would not give the same rewrites. For AMX, llama.cpp crashes where a virtual machine's
    # processor names it and its kernel does not allow it.
    parameters.use_extra_bufts = False
    model = _beside_numpy(lambda: llama.llama_model_load_from_file(os.fsencode(path), parameters))
    if not model:
        raise BadModel(f"llama.cpp cannot load {path}: is it a complete GGUF model? Try another with --model")
    return model


def _load_library() -> Any:
    """llama-cpp-python's low-level module, without what its package imports besides.

    `import llama_cpp` also brings in its chat formats and NumPy, 0.3 s that a filter would pay at each call; the bindings alone take 0.03.
    """
    if "llama_cpp" not in sys.modules:
        spec = importlib.util.find_spec("llama_cpp")
        if spec is None or spec.submodule_search_locations is None:
            raise BadModel("llama-cpp-python is not installed: pip install llama-cpp-python")
        package = types.ModuleType("llama_cpp")
        package.__path__ = list(spec.submodule_search_locations)
        package.__spec__ = spec
        sys.modules["llama_cpp"] = package
        try:
            import llama_cpp.llama_cpp
        except (RuntimeError, OSError) as error:
            raise BadModel(f"llama-cpp-python does not load ({error}): reinstall it, or install the library that it misses") from None
        finally:
            del sys.modules["llama_cpp"]
        return sys.modules["llama_cpp.llama_cpp"]
    import llama_cpp.llama_cpp

    return llama_cpp.llama_cpp


def _beside_numpy(load: Callable[[], Any]) -> Any:
    """Load the model while NumPy is being imported: both take a tenth of a second, and one of them is C.

    Each sets variables of the environment meanwhile (NumPy two, which it takes out again, ggml's processor part one) while the other reads
    some: a race in the C library, which crashed three times in some ten thousand calls. What is set already both leave alone.
    """
    for name, value in (("OPENBLAS_MAIN_FREE", "1"), ("GOTOBLAS_MAIN_FREE", "1"), ("KMP_BLOCKTIME", "200")):
        os.environ.setdefault(name, value)
    result: list[Any] = []
    thread = threading.Thread(target=lambda: result.append(load()))
    thread.start()
    import numpy  # noqa: F401

    thread.join()
    return result[0]


@contextlib.contextmanager
def _quiet(llama: Any) -> Iterator[None]:
    """llama.cpp's own log does not belong on a filter's stderr; its errors come back as null pointers."""
    callback = llama.llama_log_callback(lambda level, text, data: None)
    llama.llama_log_set(callback, None)
    _KEEP_ALIVE.append(callback)
    with _raising_after():
        yield


_KEEP_ALIVE: list[Any] = []
