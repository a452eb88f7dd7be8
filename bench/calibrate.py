"""Fit how a verdict, a likelihood and silence make one number: a logistic regression on readers' labels.

python bench/calibrate.py candidates.jsonl

A line of the input is one ask for one prompt: {"verdict": log-odds, "likelihood": nats, "silence": probability, "better": true}. Prints the
weights for `promptimal.rewrite.WEIGHTS`, how well each figure tells good asks from others (area under the curve), and what a threshold costs.
"""

import sys
from pathlib import Path

import numpy as np

from promptimal_trainer.pairs import read_lines


def main(path: Path) -> None:
    """Print the weights and the curve."""
    rows = [record for _, record in read_lines(path)]
    better = np.array([row["better"] for row in rows], float)
    features = np.array([[1.0, row["verdict"], row["likelihood"], row["silence"]] for row in rows])
    weights = fit(features, better)
    print("bias {:.3f}, verdict {:.3f}, likelihood {:.3f}, silence {:.3f}".format(*weights))
    for name, column in (("verdict", features[:, 1]), ("likelihood", features[:, 2]), ("all", features @ weights)):
        print(f"area under the curve, {name}: {area(column, better):.3f}")
    sure = 1 / (1 + np.exp(-features @ weights))
    for threshold in (0.2, 0.3, 0.4, 0.5, 0.6):
        added = sure >= threshold
        print(f"threshold {threshold}: {added.mean():.0%} added, of these {better[added].mean():.0%} better")


def fit(features: np.ndarray, better: np.ndarray, ridge: float = 0.3) -> np.ndarray:
    """Weights of a logistic regression, by Newton's method. `features` has the shape (rows, weights), a column of ones included."""
    weights = np.zeros(features.shape[1])
    for _ in range(60):
        sure = 1 / (1 + np.exp(-features @ weights))
        curvature = (features * (sure * (1 - sure))[:, None]).T @ features + ridge * np.eye(len(weights))
        weights += np.linalg.solve(curvature, features.T @ (better - sure) - ridge * weights)
    return weights


def area(score: np.ndarray, better: np.ndarray) -> float:
    """Chance that a better ask has a greater score than another one (area under the ROC curve)."""
    rank = np.empty(len(score))
    rank[np.argsort(score)] = np.arange(len(score))
    hits = better == 1
    return float((rank[hits].mean() - (hits.sum() - 1) / 2) / (~hits).sum())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
