"""The store: every answer that was paid for or computed, under the hash of the request; one SQLite file.

Each answer is a transaction of its own, in write-ahead mode: a process killed at any moment loses none that was put. (After a power cut the
last few may be missing, as the log is not synced at each; nothing is damaged.) What was spent is counted in a table of its own, which
pruning leaves alone.
"""

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from promptimal_trainer.errors import TrainError
from promptimal_trainer.pipeline.calls import Stop

_TABLES = """
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY, stage TEXT NOT NULL, kind TEXT NOT NULL, model TEXT NOT NULL, answer TEXT NOT NULL, at REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS spent (
    stage TEXT, kind TEXT, model TEXT, calls INTEGER, tokens_in INTEGER, tokens_out INTEGER, cost REAL, PRIMARY KEY (stage, kind, model)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS pending (key TEXT PRIMARY KEY, stage TEXT NOT NULL, role TEXT NOT NULL) WITHOUT ROWID;
"""
_SPEND = """
INSERT INTO spent VALUES (:stage, :kind, :model, 1, :tokens_in, :tokens_out, :cost) ON CONFLICT DO UPDATE SET
calls = calls + 1, tokens_in = tokens_in + excluded.tokens_in, tokens_out = tokens_out + excluded.tokens_out, cost = cost + excluded.cost
"""


class BadStore(TrainError):
    """A store that cannot be used; the message says why."""


class Spent(NamedTuple):
    """What was spent on one model for one stage. `cost` is in the currency of the recipe's prices."""

    stage: str
    kind: str  # "chat", "reward" or "tests"
    model: str
    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0


def key_of(kind: str, request: Mapping[str, Any]) -> str:
    """The name of a request: 32 hex digits of the SHA-256 of its kind and content, whatever the order of its fields."""
    text = json.dumps([kind, request], sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


class Store:
    """An open store. Raises BadStore where the file is none, or another run holds it (`write`)."""

    def __init__(self, path: Path, *, write: bool = True) -> None:
        self.path = path
        self._lock = _hold(path.with_name(f"{path.name}.lock")) if write else None
        self.touched: set[bytes] | None = None
        try:
            self._db = sqlite3.connect(path, isolation_level=None, timeout=30)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.executescript(_TABLES)
        except sqlite3.Error as error:
            raise BadStore(f"{path}: cannot be used as a store: {error}") from error

    def get(self, key: str) -> Any | None:
        """The answer to a request, None where there is none yet."""
        if self.touched is not None:
            self.touched.add(bytes.fromhex(key))
        row = self._db.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    def put(self, key: str, answer: Any, spent: Spent) -> None:
        """Keep an answer and count what it took, both or neither. Raises Stop where the disk is full."""
        with self._transaction():
            self._db.execute(
                "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?)",
                (key, spent.stage, spent.kind, spent.model, json.dumps(answer, ensure_ascii=False), time.time()),
            )
            self._db.execute("DELETE FROM pending WHERE key = ?", (key,))
            self._db.execute(_SPEND, spent._asdict())

    def spend(self, spent: Spent) -> None:
        """Count what an unusable answer took. Raises Stop where the disk is full."""
        with self._transaction():
            self._db.execute(_SPEND, spent._asdict())

    def spent(self) -> list[Spent]:
        """All that was ever spent, by stage, kind and model."""
        return [Spent(*row) for row in self._db.execute("SELECT * FROM spent ORDER BY stage, kind, model")]

    def counts(self) -> dict[tuple[str, str, str], int]:
        """How many answers there are, by stage, kind and model."""
        rows = self._db.execute("SELECT stage, kind, model, count(*) FROM answers GROUP BY 1, 2, 3 ORDER BY 1, 2, 3")
        return {(stage, kind, model): count for stage, kind, model, count in rows}

    def answers(self) -> Iterator[dict[str, Any]]:
        """Every answer with its key, stage, kind and model, oldest first."""
        for key, stage, kind, model, answer, at in self._db.execute("SELECT * FROM answers ORDER BY at, key"):
            yield {"key": key, "stage": stage, "kind": kind, "model": model, "at": at, "answer": json.loads(answer)}

    def wait_for(self, waiting: Iterable[tuple[str, str, str]]) -> None:
        """Note requests (key, stage, role) that were handed out as a batch file."""
        with self._transaction():
            self._db.executemany("INSERT OR IGNORE INTO pending VALUES (?, ?, ?)", waiting)

    def pending(self, key: str) -> tuple[str, str] | None:
        """Stage and role of a request that was handed out and has no answer yet."""
        row = self._db.execute("SELECT stage, role FROM pending WHERE key = ?", (key,)).fetchone()
        return None if row is None else (row[0], row[1])

    def all_pending(self) -> dict[str, int]:
        """How many requests of each stage were handed out and have no answer yet."""
        return dict(self._db.execute("SELECT stage, count(*) FROM pending GROUP BY 1 ORDER BY 1"))

    def prune(self, *, before: float | None = None, keep: Iterable[bytes] | None = None) -> int:
        """Delete the answers put before a time (seconds since 1970), or all but those of the keys to `keep`; how many went."""
        if before is not None:
            gone = self._db.execute("DELETE FROM answers WHERE at < ?", (before,)).rowcount
        else:
            self._db.execute("CREATE TEMP TABLE kept (key TEXT PRIMARY KEY) WITHOUT ROWID")
            with self._transaction():
                self._db.executemany("INSERT OR IGNORE INTO kept VALUES (?)", ((key.hex(),) for key in keep or ()))
            gone = self._db.execute("DELETE FROM answers WHERE key NOT IN (SELECT key FROM kept)").rowcount
            self._db.execute("DROP TABLE kept")
        self._db.execute("VACUUM")
        return gone

    def close(self) -> None:
        """Let go of the file, for other runs to use."""
        self._db.close()
        if self._lock is not None:
            self._lock.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing; takes the write lock at once. Raises Stop where the file cannot be written."""
        try:
            with self._db:  # which knows that on a full disk SQLite itself has rolled back
                self._db.execute("BEGIN IMMEDIATE")
                yield
        except sqlite3.Error as error:
            raise Stop(f"{self.path}: cannot be written: {error}; make room, and the same command goes on from what is stored") from error


def _hold(path: Path) -> sqlite3.Connection:
    """Keep other runs off the store: two would pay for the same calls. SQLite's own lock, which no killed process leaves behind, on any system."""
    try:
        lock = sqlite3.connect(path, isolation_level=None, timeout=0)
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        why = "another run is using it" if "locked" in str(error) else str(error)
        raise BadStore(f"{path.with_suffix('')}: cannot be used: {why}") from error
    except sqlite3.DatabaseError as error:
        raise BadStore(f"{path}: cannot be used: {error}") from error
    return lock
