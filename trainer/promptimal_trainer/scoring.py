"""Scores of rewrites and of the answers they get, as shares and differences with their intervals; what `evaluate` puts in its table."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from statistics import mean, median
from typing import TYPE_CHECKING, Any

import numpy as np

from promptimal import fidelity
from promptimal.rewrite import Rewrite
from promptimal_trainer.calls import Answer
from promptimal_trainer.compare import wilson

if TYPE_CHECKING:
    from promptimal_trainer.sources import Question

MEASURE = {"choice": "accuracy", "open": "reward", "code": "passed"}
"""What the score of an answer is called, by the kind of its question."""

_STATEMENT = ("no demand but a statement", "asks that are no whole sentences")
"""How `fidelity` names what is an answer rather than an ask."""


def kept(rewrites: Sequence[Rewrite]) -> dict[str, Any]:
    """What can be said of rewrites without an answer to them."""
    refused = [any(f.startswith(_STATEMENT) for f in r.faults) for r in rewrites]
    return {
        "faithful": share(sum(map(is_faithful, rewrites)), len(rewrites)),
        "unchanged": share(sum(r.text.strip() == r.prompt.strip() for r in rewrites), len(rewrites)),
        "answered": share(sum(map(answers_instead, rewrites)), len(rewrites)),
        "answers_refused": share(sum(refused), len(rewrites)),
        "length_ratio": {
            "median": round(median(len(r.text) / len(r.prompt.strip()) for r in rewrites), 3),
            "mean": round(mean(len(r.text) / len(r.prompt.strip()) for r in rewrites), 3),
        },
    }


def share(hits: int, count: int) -> dict[str, Any]:
    """A share with its 95% interval (Wilson)."""
    low, high = wilson(hits, count)
    return {"hits": hits, "count": count, "share": round(hits / max(1, count), 4), "low": round(low, 4), "high": round(high, 4)}


def gain(before: Sequence[float], after: Sequence[float], samples: int = 2000) -> dict[str, Any]:
    """Mean of the differences of paired scores, with its 95% interval (percentile bootstrap, Efron 1979)."""
    differences = np.asarray(after, dtype=float) - np.asarray(before, dtype=float)
    rows = np.random.default_rng(0).integers(0, len(differences), (samples, len(differences)))
    low, high = np.percentile(differences[rows].mean(axis=1), [2.5, 97.5])
    return {
        "count": len(differences),
        "mean": round(float(differences.mean()), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
    }


def is_faithful(rewrite: Rewrite) -> bool:
    """Whether nothing that the prompt gives is lost, and the asks bring in nothing. What the check finds amiss in the prompt itself is its own mistake."""
    lost = set(fidelity.check(rewrite.prompt, rewrite.text)) - set(fidelity.check(rewrite.prompt, rewrite.prompt))
    return not lost and not (rewrite.asks and fidelity.check_asks(" ".join(rewrite.asks), rewrite.prompt))


def answers_instead(rewrite: Rewrite) -> bool:
    """Whether a rewrite answers: it holds a statement where an ask should stand, or less than half of the prompt's content words."""
    added = " ".join(rewrite.asks)
    if added and any(fault.startswith(_STATEMENT) for fault in fidelity.check_asks(added, rewrite.prompt)):
        return True
    given = {item.form for item in fidelity.items(rewrite.prompt) if item.kind == "word"}
    kept = {item.form for item in fidelity.items(rewrite.text) if item.kind == "word"}
    return 2 * len(given & kept) < len(given)


class Scorer:
    """Scores answers: 1 or 0 for a choice or code, a reward for an open question, against the question as it was typed, never against a rewrite.

    `reward` is the reward model's name or folder, loaded at once, before an answer is paid for. Without one, open answers get no score; nor does
    code where the sandbox does not work.
    Raises reward.BadReward.
    """

    def __init__(self, reward: str | None) -> None:
        self._reward: Any = None
        if reward:
            from promptimal_trainer.reward import RewardModel

            self._reward = RewardModel(reward)

    def lacks(self, kinds: Iterable[str]) -> list[str]:
        """What cannot be scored of questions of these kinds, and why."""
        lacking = ["reward of open answers: no --reward"] if self._reward is None and "open" in kinds else []
        return lacking + ([f"tests of code: {self._no_sandbox}"] if "code" in kinds and self._no_sandbox else [])

    def __call__(self, questions: Sequence["Question"], answers: Sequence[Answer]) -> list[float | None]:
        """A score for each question and its answer; None where there can be none, see `lacks`."""
        scores = [self._right(q, a.text) for q, a in zip(questions, answers, strict=True)]
        opened = [row for row, q in enumerate(questions) if q.kind == "open"]
        if self._reward and opened:
            rewards = self._reward.score([(questions[row].text, answers[row].text) for row in opened])
            for row, value in zip(opened, rewards, strict=True):
                scores[row] = float(value)
        return scores

    @cached_property
    def _no_sandbox(self) -> str:
        """Why no code can be run here, or ""."""
        from promptimal_trainer.sandbox import NoSandbox, try_out

        try:
            try_out()
        except NoSandbox as error:
            return str(error)
        return ""

    def _right(self, question: "Question", text: str) -> float | None:
        if question.kind == "choice":
            return float(letter(text, question) == question.answer)
        if question.kind == "open" or self._no_sandbox:
            return None
        from promptimal_trainer.sandbox import program, run_tests

        return float(run_tests(program(question.text, text), question.tests, question.entry_point).passed)


def letter(text: str, question: "Question") -> str | None:
    """The choice that an answer makes; None where it makes none, which counts as wrong."""
    from promptimal_trainer.answers import chosen

    return chosen(text, question.choices)
