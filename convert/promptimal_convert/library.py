"""llama.cpp's own library, as llama-cpp-python brings it: its bindings alone, without what that package imports besides."""

import ctypes
import importlib
import importlib.util
import sys
import types
from functools import cache
from pathlib import Path
from typing import Any


class NoLibrary(ImportError):
    """llama-cpp-python is missing or of a kind that cannot be used; the message says what to do."""


@cache
def llama() -> Any:
    """The low-level bindings, silent. Raises NoLibrary."""
    whole = sys.modules.get("llama_cpp")
    if whole is None:
        package = types.ModuleType("llama_cpp")
        package.__path__ = [str(_folder())]
        sys.modules["llama_cpp"] = package
    try:
        library = importlib.import_module("llama_cpp.llama_cpp")
    finally:
        if whole is None:
            del sys.modules["llama_cpp"]
    log = _KEEP_ALIVE.setdefault("log", library.llama_log_callback(lambda level, text, data: None))
    library.llama_log_set(log, None)
    return library


@cache
def ggml() -> Any:
    """The library with the quantizers, which the bindings do not cover. Raises NoLibrary."""
    folder = _folder() / "lib"
    for file in [folder / "libggml-base.so", folder / "libggml-base.dylib", folder / "ggml-base.dll"]:
        if file.exists():
            library = ctypes.CDLL(str(file))
            pointer = ctypes.c_void_p
            library.ggml_quantize_chunk.restype = ctypes.c_size_t
            library.ggml_quantize_chunk.argtypes = [
                ctypes.c_int, pointer, pointer, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, pointer,
            ]  # fmt: skip
            return library
    raise NoLibrary(f"llama-cpp-python has no libggml-base in {folder}: pip install --force-reinstall llama-cpp-python")


def _folder() -> Path:
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or not spec.submodule_search_locations:
        raise NoLibrary("llama-cpp-python is not installed: pip install llama-cpp-python")
    return Path(next(iter(spec.submodule_search_locations)))


_KEEP_ALIVE: dict[str, Any] = {}
