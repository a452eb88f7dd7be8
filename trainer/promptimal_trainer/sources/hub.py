"""A source's data set from the hub, through `datasets`: downloaded once, then read from its memory-mapped cache row by row."""

from collections.abc import Callable, Iterator
from typing import Any

from promptimal_trainer.sources.question import BadSource, Hub, Item, Question


def items(hub: Hub, from_record: Callable[[Any, int], Question | str]) -> Iterator[Item]:
    """The questions of a data set. Raises BadSource where it cannot be loaded, or is laid out otherwise than expected."""
    try:
        import datasets
    except ImportError as error:
        raise BadSource("the hub needs datasets: pip install 'promptimal-local[train]'") from error
    try:
        rows = datasets.load_dataset(hub.name, hub.config, split=hub.split)
    except Exception as error:  # of many kinds: connection, configuration, split, file format, each with a message of its own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadSource(f"{hub.name}: cannot be loaded from the hub: {reason}") from error
    if lacking := set(hub.columns) - set(rows.column_names):
        raise BadSource(f"{hub.name}: no column {', '.join(sorted(lacking))}; it has {', '.join(rows.column_names)}")
    for number, record in enumerate(rows, 1):
        yield f"{hub.name} row {number}", from_record(record, number)
