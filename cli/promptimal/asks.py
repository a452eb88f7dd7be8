"""The asks that a rewrite may end with, and how sure a model is of each.

The model writes no ask of its own: it reads the prompt, and from the hidden state it ends in a linear layer tells for every sentence of
a bank how likely a careful reader is to find the answer better with it. The bank and the layer stand in the model file's header,
so that a model fine-tuned on other sentences brings them along.
"""

from typing import Any, NamedTuple

from promptimal_convert.gguf_file import BadGGUF, Header, float_bytes, texts

SENTENCES, WEIGHT, BIAS = "promptimal.asks", "promptimal.asks.weight", "promptimal.asks.bias"
"""Header keys: n texts, n × hidden size numbers (row by row), n numbers."""


class Bank(NamedTuple):
    """Sentences, and the layer that rates them: `weight` of shape (n, hidden size), `bias` of shape (n,), float32."""

    sentences: list[str]
    weight: Any
    bias: Any

    def rate(self, state: Any) -> Any:
        """For each sentence the probability that it helps, shape (n,), from a hidden state of shape (hidden size,)."""
        import numpy as np

        return 1 / (1 + np.exp(-(self.weight @ state + self.bias)))


def read_bank(header: Header) -> Bank:
    """The bank in a model's or an adapter's header. Raises BadGGUF where it has none, or the parts do not fit each other."""
    import numpy as np

    sentences = texts(header, SENTENCES)
    bias, weight = (np.frombuffer(float_bytes(header, key), dtype="<f4") for key in (BIAS, WEIGHT))
    if not sentences or len(bias) != len(sentences) or len(weight) % len(sentences) or not np.isfinite(weight).all():
        raise BadGGUF(f"{header.path}: its asks and their weights do not fit each other")
    return Bank(sentences, weight.reshape(len(sentences), -1), bias)
