"""A run folder: who may write it, what it was asked to do, what it holds.

<run>/config.yaml manifest.json env.json log.txt journal/*.jsonl cache.sqlite shards/
records.parquet candidates.parquet cells.parquet allocation.parquet problems.parquet report/
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import IO, Any

import yaml

from ttc.core.errors import ConfigError, DataError, StorageError, cannot_write
from ttc.store.journal import Replay, read_journal

SHARED_PATIENCE_S = 300.0
"""How long a shard waits for another one that is writing the report."""
_WHOLE = "whole"
"""Stands in a run's lock while one process runs all of it; whoever runs a shard takes it away."""
_DAMAGED = "restore it, or delete it and run the same command again: the journal keeps what is finished"


class RunDir:
    """Paths and small files of one run. Reading needs no lock; `open_for_writing` takes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shard: str | None = None
        """The part of the run that this process has to itself; None has the whole."""
        self._lock: IO[str] | None = None
        self._own_lock: IO[str] | None = None

    @property
    def journal(self) -> Path:
        """Return the journal folder."""
        return self.path / "journal"

    @property
    def report(self) -> Path:
        """Return the report folder."""
        return self.path / "report"

    def table(self, name: str) -> Path:
        """Return where a Parquet table lies."""
        return self.path / f"{name}.parquet"

    def cache_file(self, shared: str | None) -> Path:
        """Return the generation cache: the run's own, or one in a shared folder."""
        return (self.own if shared is None else Path(shared).expanduser()) / "cache.sqlite"

    @property
    def own(self) -> Path:
        """Return where this process keeps what no other may write: the run's folder, or the shard's."""
        return self.path if self.shard is None else self.path / "shards" / self.shard

    @classmethod
    def existing(cls, path: Path) -> RunDir:
        """Return the run at `path`.

        Raises:
            DataError: there is no run there.
        """
        if not (path / "manifest.json").is_file():
            runs = [p.parent.name for p in path.glob("*/manifest.json")] if path.is_dir() else []
            hint = "runs in it: " + ", ".join(sorted(runs)[:5]) if runs else "ttc ls runs lists the runs of results/"
            raise DataError(f"{path} is not a run folder (it has no manifest.json)", hint)
        run = cls(path)
        run._refuse_links()
        return run

    def _refuse_links(self) -> None:
        """Keep what is written to the folder inside of it, whoever made the folder.

        Raises:
            StorageError: something in it leads out.
        """
        for path in self.path.rglob("*"):
            if path.is_symlink():
                raise StorageError(
                    f"{path} is a symbolic link: a run folder holds its own files", "copy what it leads to"
                )

    def open_for_writing(
        self,
        spec: dict[str, Any],
        spec_id: str,
        shard: str | None = None,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Create or resume the run: lock it, and check that it was asked for the same thing.

        With `shard`, others may hold shards of other names at the same time, and nobody the whole; `note` is told where
        that one must wait for another's report.

        Raises:
            StorageError: the folder cannot be written, or another process runs in it.
            ConfigError: it holds another run.
        """
        self.shard = shard
        self._refuse_links()
        try:
            self.journal.mkdir(parents=True, exist_ok=True)
            self.own.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(self.path, error) from error
        try:
            self._lock = self._held(self.path, fcntl.LOCK_EX if shard is None else fcntl.LOCK_SH, note)
            _say(self._lock, _WHOLE if shard is None else "")
            if shard is not None:
                self._own_lock = self._held(self.own, fcntl.LOCK_EX, note)
            with self.setting_up():
                self._adopt(spec, spec_id)
        except (ConfigError, StorageError):
            self.close()
            raise

    def _held(self, folder: Path, kind: int, note: Callable[[str], None]) -> IO[str]:
        """Return a folder's lock, held. The kernel drops it when the process ends, however it ends."""
        try:
            lock = (folder / ".lock").open("a+")  # a shared lock on a network file system needs a file that can be read
        except OSError as error:
            raise cannot_write(folder, error) from error
        with contextlib.ExitStack() as stack:
            stack.callback(lock.close)
            patient_until = time.monotonic() + (SHARED_PATIENCE_S if kind == fcntl.LOCK_SH else 0.0)
            noted = False
            while not _taken(lock, kind):
                if time.monotonic() >= patient_until:
                    other = "or give another --out" if self.shard is None else "then run the same command again"
                    raise StorageError(f"another process is running in {folder}", f"wait for it, {other}")
                lock.seek(0)
                if lock.read() == _WHOLE:
                    raise StorageError(
                        f"a command without --shard is running in {folder}", "wait for it: it runs every shard's part"
                    )
                if not noted:
                    note(f"waiting for the report that another shard is writing in {folder}")
                    noted = True
                time.sleep(1.0)
            stack.pop_all()
        return lock

    @contextlib.contextmanager
    def setting_up(self) -> Iterator[None]:
        """Let no other shard read or write the small files inside."""
        if self.shard is None:
            yield
            return
        try:
            lock = (self.path / "shards" / ".lock").open("a+")
        except OSError as error:
            raise cannot_write(self.path, error) from error
        with lock:
            _taken(lock, fcntl.LOCK_EX, wait=True)
            yield

    def take_whole(self) -> bool:
        """Say whether no other shard runs any more; then this process holds the whole run."""
        if self._lock is None:
            return False
        # Let go first: of two shards that end together, the one that asks last must not be refused by the other.
        _taken(self._lock, fcntl.LOCK_UN)
        return _taken(self._lock, fcntl.LOCK_EX)

    def reopen(self) -> None:
        """Note that something is left to do, also where the run was finished: failed problems are tried again."""
        manifest = self.read_manifest()
        if manifest.get("state") != "running" or "finished_at" in manifest:
            manifest.pop("finished_at", None)
            self.write_json("manifest.json", {**manifest, "state": "running"})

    def _adopt(self, spec: dict[str, Any], spec_id: str) -> None:
        if (self.path / "manifest.json").exists():
            found = self.read_manifest().get("spec_id")
            if found != spec_id:
                raise ConfigError(
                    f"{self.path} holds another run ({found}, not {spec_id}): {self._difference(spec)}",
                    "give another --out, or the settings of the first run",
                )
            return
        self.write_text("config.yaml", yaml.safe_dump(spec, sort_keys=False, allow_unicode=True))
        self.write_json("manifest.json", {"spec_id": spec_id, "state": "running", "restarts": []})

    def _difference(self, spec: dict[str, Any]) -> str:
        try:
            old = yaml.safe_load((self.path / "config.yaml").read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError):
            return "its config.yaml cannot be read"
        old = old if isinstance(old, dict) else {}
        changed = [key for key in sorted({*old, *spec}) if old.get(key) != spec.get(key)]
        return "it differs in " + (", ".join(changed) or "the data or the model behind the same names")

    def read_manifest(self) -> dict[str, Any]:
        """Return the manifest.

        Raises:
            StorageError: it cannot be read or is not JSON.
        """
        path = self.path / "manifest.json"
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise StorageError(f"cannot read {path}: {error}", _DAMAGED) from error
        if not isinstance(manifest, dict):
            raise StorageError(f"{path} is not a JSON object", _DAMAGED)
        return manifest

    def replay(self, without: Collection[str] = ()) -> Replay:
        """Read the journal; keys of its records in `without` are left out."""
        return read_journal(self.journal, without)

    def write_json(self, name: str, value: dict[str, Any]) -> None:
        """Replace a small JSON file as a whole."""
        self.write_text(name, json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Replace a small text file as a whole.

        Raises:
            StorageError: the folder cannot be written.
        """
        path = self.path / name
        partial = path.with_name(f".{path.name}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(text, encoding="utf-8")
            partial.replace(path)
        except OSError as error:
            raise cannot_write(path, error) from error

    def log(self, line: str) -> None:
        """Append a line to log.txt; a log that cannot be written stops nothing."""
        try:
            with (self.path / "log.txt").open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError:
            return

    @property
    def locked(self) -> bool:
        """Say whether this object holds the run."""
        return self._lock is not None

    def close(self) -> None:
        """Release the lock."""
        for lock in (self._lock, self._own_lock):
            if lock is not None:
                lock.close()
        self._lock = self._own_lock = None


def _say(lock: IO[str], word: str) -> None:
    """Write into a lock that is held what those who wait for it must know.

    Raises:
        StorageError: the disk is full or gone.
    """
    try:
        os.ftruncate(lock.fileno(), 0)
        os.write(lock.fileno(), word.encode())  # unbuffered: closing would try what failed again
    except OSError as error:
        raise cannot_write(Path(lock.name), error) from error


def _taken(lock: IO[str], kind: int, *, wait: bool = False) -> bool:
    """Say whether a file is now locked in this way; False where another process holds it.

    Raises:
        StorageError: the file system has no locks.
    """
    try:
        fcntl.flock(lock, kind if wait else kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise StorageError(
            f"cannot lock {lock.name}: {error.strerror or error}",
            "a run folder on a network needs one that carries file locks: NFS 4, or Lustre mounted with flock",
        ) from error
    return True


def find_run(results: Path, spec_id: str, name: str) -> Path:
    """Return the unfinished run of the same spec in `results`, whatever its date, else `results/name`."""
    for manifest in sorted(results.glob("*/manifest.json")):
        try:
            found = json.loads(manifest.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(found, dict) and found.get("spec_id") == spec_id and found.get("state") != "finished":
            return manifest.parent
    return results / name
