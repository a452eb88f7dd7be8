"""Weights in, GGUF out: read and check GGUF files, convert adapters, merge and quantize. NumPy and gguf, no torch."""
