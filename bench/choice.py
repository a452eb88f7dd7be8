"""How a model chooses, by the lists of the development set: what readers who saw no rewrite say of the asks that it adds.

python bench/choice.py [model.gguf …]

Of each model (the default one, where none is named): the share of prompts whose surest ask is on the reader's list, or among the misfits; and what the asks
are that it adds, by kind of prompt. trainer/LOG.md tells how such lists foretell the verdicts of readers.
"""

import sys
from collections import Counter
from pathlib import Path

from machine import machine

from promptimal import models
from promptimal.rewrite import Chooser
from promptimal_trainer import pairs

DATA = pairs.DEFAULT.parent / "development.jsonl"
SORTS = ("none", "all help", "one helps", "neither", "a misfit")


def main(names: list[str]) -> None:
    """Print the tables."""
    records = pairs.read_prompts(DATA)
    print(machine())
    for name in names or [""]:
        model = models.load(models.Choice(name=name or None), print, True)
        assert isinstance(model, Chooser), "a model with a bank"
        every = list(model.rewrite_all((r["prompt"] for r in records), 2))
        surest: Counter[bool | None] = Counter()
        kinds: dict[str, Counter[str]] = {}
        for record, rewrites in zip(records, every, strict=True):
            first = next((r.asks[0] for r in rewrites if r.asks), None)
            if first:
                surest[_says(record, first)] += 1
            kinds.setdefault(record["kind"], Counter())[_sort(record, rewrites[0].asks)] += 1
        asked = surest.total()
        print(
            f"\n{model.name}: surest ask on the list {surest[True] / asked:.1%}, among the misfits {surest[False] / asked:.1%} of {asked}\n"
        )
        print(f"| kind | prompts | {' | '.join(SORTS)} |\n| --- | --- |{' --- |' * len(SORTS)}")
        for kind, sorts in {**kinds, "all": sum(kinds.values(), Counter())}.items():
            print(f"| {kind} | {sorts.total()} | {' | '.join(f'{sorts[s] / sorts.total():.0%}' for s in SORTS)} |")
        model.close()


def _says(record: dict[str, list[str]], ask: str) -> bool | None:
    """Whether the reader named an ask as helping, or as a misfit; None where neither."""
    return True if ask in record["asks"] else False if ask in record["misfits"] else None


def _sort(record: dict[str, list[str]], asks: tuple[str, ...]) -> str:
    says = [_says(record, ask) for ask in asks]
    if False in says:
        return "a misfit"
    return "none" if not says else "all help" if all(says) else "one helps" if any(says) else "neither"


if __name__ == "__main__":
    main([str(Path(name)) for name in sys.argv[1:]])
