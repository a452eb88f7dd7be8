"""What readers' verdicts on rewrites say of each ask, and how the asks' layer is set by it.

Lists teach the layer which asks fit a prompt. Whether the rewrite is then preferred is another question, and some asks that look fitting lose it
often. So each ask's log-odds are moved by how rewrites with it fared, against how all did.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from math import log
from pathlib import Path

from safetensors.torch import load_file, save_file

from promptimal_trainer.compare import outcomes

PRIOR = 8
"""Verdicts of the average that are added to each ask's own, so that a few do not move it far."""


def shifts(sheets: Iterable[Path], sentences: Sequence[str]) -> dict[str, float]:
    """What to add to the log-odds of each sentence that stood in a judged rewrite: the log-odds that a rewrite with it wins, less those of all.

    A tie says nothing. `sheets` are directories of `compare` in which B was judged against the prompts as typed. Raises BadPairs.
    """
    won: Counter[str] = Counter()
    judged: Counter[str] = Counter()
    for outcome in (o for sheet in sheets for o in outcomes(sheet) if o.result != "tied"):
        added = [s for s in sentences if s in outcome.b and s not in outcome.prompt]
        judged.update(added)
        won.update(added if outcome.result == "won" else [])
    if not judged:
        return {}
    share = (won.total() + 1) / (judged.total() + 2)
    return {s: _odds((won[s] + PRIOR * share) / (judged[s] + PRIOR)) - _odds(share) for s in judged}


def apply(moved: dict[str, float], run: Path) -> None:
    """Move the biases of the asks' layer in a run's directory."""
    sentences = (run / "asks.txt").read_text(encoding="utf-8").splitlines()
    layer = load_file(run / "asks.safetensors")
    for number, sentence in enumerate(sentences):
        layer["bias"][number] += moved.get(sentence, 0.0)
    save_file(layer, run / "asks.safetensors")


def _odds(probability: float) -> float:
    return log(probability / (1 - probability))
