"""The SQLite file under the queue: connections, transactions, schema."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from recurvid.errors import JobError, LimitError
from recurvid.jobs.limits import FULL

VERSION = 1
_BUSY_SECONDS = 30.0
#: Bytes that opening a queue takes: the file, its log and its shared memory.
_LEAST_ROOM = 200_000
_SCHEMA = """
CREATE TABLE jobs (
    serial INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    state TEXT NOT NULL,
    request TEXT NOT NULL,
    how TEXT NOT NULL,
    device TEXT NOT NULL,
    title TEXT NOT NULL,
    position REAL NOT NULL,
    created_at REAL NOT NULL,
    started_at REAL,
    finished_at REAL,
    picture_width INTEGER NOT NULL,
    picture_height INTEGER NOT NULL,
    end_picture INTEGER NOT NULL,
    progress TEXT NOT NULL,
    plan TEXT,
    error_code TEXT,
    error TEXT,
    cancelling INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    crashes INTEGER NOT NULL DEFAULT 0,
    restarts INTEGER NOT NULL DEFAULT 0,
    holds INTEGER NOT NULL DEFAULT 0,
    not_before REAL NOT NULL DEFAULT 0,
    revision INTEGER NOT NULL DEFAULT 1,
    slot TEXT,
    token TEXT
);
CREATE INDEX jobs_by_state ON jobs (state, position);
CREATE INDEX jobs_by_owner ON jobs (owner, serial);
CREATE TABLE events (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    job_id TEXT NOT NULL,
    owner TEXT NOT NULL,
    kind TEXT NOT NULL,
    data TEXT NOT NULL,
    at REAL NOT NULL
);
CREATE INDEX events_by_job ON events (job_id, kind, number);
CREATE TABLE graves (id TEXT PRIMARY KEY);
CREATE TABLE notes (name TEXT PRIMARY KEY, text TEXT NOT NULL);
"""


class Database:
    """One file, any number of threads and processes.

    Connections are lent from a pool: an SQLite connection serves one thread at a time, and the
    threads of a web server come and go.

    Args:
        path: made, readable by its user only, when it is not there.

    Raises:
        JobError: it was written by a later version, or cannot be opened.
    """

    def __init__(self, path: Path):
        self.path = path
        self._idle: deque[sqlite3.Connection] = deque()
        self._lock = threading.Lock()
        self._process = os.getpid()
        # WAL and shared memory files take over the mode of the file itself.
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        try:
            self._prepare()
        except sqlite3.DatabaseError as error:
            # SQLite says "disk I/O error" where it finds no room for its shared memory.
            full = shutil.disk_usage(path.parent).free < _LEAST_ROOM
            reason = "the disk is full; make room and start again" if full else error
            raise JobError(f"the queue {path} cannot be opened: {reason}") from error

    @contextmanager
    def reading(self) -> Generator[sqlite3.Connection]:
        """A connection; all reads inside see one state of the file."""
        with self._lent() as connection:
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                connection.execute("ROLLBACK")

    @contextmanager
    def writing(self, *, durable: bool = True) -> Generator[sqlite3.Connection]:
        """A connection that is alone in writing; committed at the end, undone by an exception.

        Args:
            durable: whether it must outlast a loss of power; a crash of processes it always does.

        Raises:
            LimitError: the disk is full.
        """
        with _full_is_said(), self._lent() as connection:
            connection.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                # SQLite undoes by itself when its disk is full.
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Give the idle connections back to the system."""
        with self._lock:
            while self._idle:
                self._idle.pop().close()

    @contextmanager
    def _lent(self) -> Generator[sqlite3.Connection]:
        with self._lock:
            if self._process != os.getpid():  # a forked child must not use its parent's
                self._idle.clear()
                self._process = os.getpid()
            connection = self._idle.pop() if self._idle else None
        connection = connection or self._connect()
        try:
            yield connection
        except sqlite3.Error:
            connection.close()
            raise
        except BaseException:
            self._give_back(connection)
            raise
        else:
            self._give_back(connection)

    def _give_back(self, connection: sqlite3.Connection) -> None:
        with self._lock:
            if len(self._idle) < 8:
                self._idle.append(connection)
                return
        connection.close()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        connection.row_factory = sqlite3.Row
        return connection

    def _prepare(self) -> None:
        connection = self._connect()
        try:
            _patiently(connection, "PRAGMA journal_mode=WAL")
            connection.execute("BEGIN IMMEDIATE")
            found = int(connection.execute("PRAGMA user_version").fetchone()[0])
            if found > VERSION:
                connection.execute("ROLLBACK")
                raise JobError(
                    f"the queue {self.path} was written by a later version of RecurVid; update"
                )
            if found == 0:
                for statement in _SCHEMA.split(";"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version={VERSION}")
            connection.execute("COMMIT")
        finally:
            connection.close()


@contextmanager
def _full_is_said() -> Generator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        if "full" not in str(error):
            raise
        raise LimitError(*FULL) from error


def _patiently(connection: sqlite3.Connection, statement: str) -> None:
    """Run what does not wait by itself for other processes that do the same at this moment."""
    until = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute(statement)
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.02)
        else:
            return
