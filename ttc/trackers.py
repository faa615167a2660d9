"""Hand a finished run to an experiment tracker: W&B, MLflow, Trackio, or a class of one's own.

`--track NAME:TARGET` names a class registered under `ttc.trackers`, or `file.py:Class` with or without `:TARGET`. It is
made with the target (a project, an experiment) and runs in a process of its own, which may fail and may not hang:
what its library prints, starts and retries stays there, and its time is limited.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ttc.core import registry
from ttc.core.errors import ConfigError, TtcError

LIMIT_S = 120.0
"""All trackers of a run together: they work at the same time, and what has not ended by then is ended."""
EXTRAS = ("wandb", "mlflow", "trackio")
PICTURES = ("pareto",)
FACTS = ("command", "started_at", "finished_at", "n_problems", "limit", "sampling", "sources", "weights", "reward",
         "min_call_tokens")  # fmt: skip
"""What the manifest says beside the configuration."""


@dataclass(frozen=True, slots=True)
class Finished:
    """What a tracker is given of a run."""

    name: str
    """The run folder's name."""
    config: Mapping[str, Any]
    """The configuration, and what the manifest and the environment say of the run: plain data."""
    cells: Sequence[Mapping[str, Any]]
    """One row a cell, with the columns of cells.parquet: accuracy, ci_low, ci_high, tokens_per_problem, ..."""
    pictures: Mapping[str, Path]
    """PNG files by name."""
    report: Path
    """The folder with the page, the pictures, the leaderboard and numbers.parquet."""


class Tracker(Protocol):
    """Sends a run somewhere. Whatever it raises becomes a warning."""

    def log(self, run: Finished) -> str | None:
        """Send everything; return where it can be seen, if that can be said in a line."""


class TrackerKind(Protocol):
    """A class of trackers: what stands behind an entry point of `ttc.trackers`."""

    def __call__(self, target: str) -> Tracker:
        """Make one; `target` is empty where `file.py:Class` came without."""


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of one tracker."""

    word: str
    seen: str | None = None
    """Where the run can be seen."""
    failure: str | None = None
    """Why it is not there, in one line; None where it is."""

    @property
    def line(self) -> str:
        """Return what a user is told."""
        if self.failure is None:
            return f"{self.word}: {self.seen or 'logged'}"
        failure = " ".join(self.failure.split())
        return f"{self.word} has not logged the run: {failure} (ttc report RUN --track {self.word} tries again)"


def find(word: str) -> tuple[TrackerKind, str]:
    """Return the class and the target that `--track` names.

    Raises:
        ConfigError: an unknown tracker, a missing file or class, or no target.
    """
    file, is_file, rest = word.partition(".py:")
    name, _, target = (rest if is_file else word).partition(":")
    kind: TrackerKind = registry.load("trackers", f"{file}.py:{name}" if is_file else name)
    if not is_file and not target:
        raise ConfigError(f"--track {word} does not say where to", f"give it as {name}:PROJECT")
    return kind, target


def send(words: Sequence[str], run: Path, report: Path) -> list[Sent]:
    """Send a finished run to every tracker at once; nothing that goes wrong is raised."""
    if not words:
        return []
    try:
        with tempfile.TemporaryDirectory(prefix="ttc-track-") as place, ExitStack() as started:
            ends = time.monotonic() + LIMIT_S
            sending = []
            for number, word in enumerate(words):
                sending.append(_Sending.start(word, (run, report), Path(place) / str(number)))
                started.callback(sending[-1].end)
            return [one.result(ends) for one in sending]
    except OSError as error:  # no process, no room
        return [Sent(word, failure=str(error)) for word in words]


@dataclass(frozen=True, slots=True)
class _Sending:
    """One tracker's process."""

    word: str
    process: subprocess.Popen[bytes]
    answer: Path
    printed: Path

    @classmethod
    def start(cls, word: str, folders: tuple[Path, Path], place: Path) -> _Sending:
        answer, printed = place.with_suffix(".json"), place.with_suffix(".txt")
        # -P: nothing in the working directory, such as W&B's own folder `wandb`, is taken for a package.
        command = [sys.executable, "-P", "-c", "import sys; from ttc.trackers import child; child(*sys.argv[1:])"]
        with printed.open("wb") as output:  # a file: a pipe would stay open while a service it left behind runs
            process = subprocess.Popen(
                [*command, word, *map(str, folders), str(answer), str(LIMIT_S)],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        return cls(word, process, answer, printed)

    def result(self, ends: float) -> Sent:
        try:
            code = self.process.wait(max(0.0, ends - time.monotonic()))
        except subprocess.TimeoutExpired:
            return Sent(self.word, failure=f"it did not end within {LIMIT_S:g} s")
        try:
            said = json.loads(self.answer.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            last = self.printed.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
            return Sent(self.word, failure=f"its process ended with code {code}" + "".join(f": {x}" for x in last))
        return Sent(self.word, **said)

    def end(self) -> None:
        """End what still runs, with all that it started."""
        if self.process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def child(word: str, run: str, report: str, answer: str, limit_s: str) -> None:
    """Log one run by one tracker, in a process of its own, and write what became of it to the file `answer`."""
    signal.setitimer(signal.ITIMER_REAL, float(limit_s) + 1)  # should the parent die, this ends all the same
    try:
        kind, target = find(word)
        seen = kind(target).log(finished(Path(run), Path(report)))
        said = {"seen": None if seen is None else str(seen)}
    except ModuleNotFoundError as error:
        hint = f": pip install 'ttc-toolkit[{error.name}]'" if error.name in EXTRAS else ""
        said = {"failure": f"{error}{hint}"}
    except TtcError as error:
        said = {"failure": error.message}
    except Exception as error:  # noqa: BLE001 - the boundary of a tracker: it may raise anything, and stops nothing
        said = {"failure": f"{type(error).__name__}: {error}"}
    Path(answer).write_text(json.dumps(said), encoding="utf-8")


def finished(run: Path, report: Path) -> Finished:
    """Read what a tracker is given from a run folder and its report.

    Raises:
        StorageError: something cannot be read.
    """
    import yaml

    from ttc.store.rundir import RunDir
    from ttc.store.tables import read_table, rows_of

    folder = RunDir.existing(run)
    manifest = folder.read_manifest()
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")) or {}
    environment = run / "env.json"
    packages = json.loads(environment.read_text(encoding="utf-8")).get("packages", {}) if environment.exists() else {}
    facts = {key: manifest[key] for key in FACTS if manifest.get(key) is not None}
    return Finished(
        name=run.resolve().name,
        config={**config, **facts, "packages": packages},
        cells=rows_of(read_table(folder.table("cells"), "cells")),
        pictures={name: report / f"{name}.png" for name in PICTURES},
        report=report,
    )


@dataclass(frozen=True, slots=True)
class WandB:
    """Weights & Biases: `wandb:PROJECT` or `wandb:ENTITY/PROJECT`; offline where no key is known."""

    target: str

    def log(self, run: Finished) -> str:
        """Log one run with the configuration, a table of cells and the pictures."""
        import wandb

        entity, _, project = self.target.rpartition("/")
        mode = os.environ.get("WANDB_MODE") or ("online" if wandb.api.api_key else "offline")
        with wandb.init(
            project=project, entity=entity or None, name=run.name, config=dict(run.config), mode=mode
        ) as logged:
            columns = list(run.cells[0])
            rows = [[row[column] for column in columns] for row in run.cells]
            logged.log(
                {
                    "cells": wandb.Table(columns=columns, data=rows),
                    **{name: wandb.Image(str(path)) for name, path in run.pictures.items()},
                }
            )
            return str(logged.url or f"offline; to send it: wandb sync {logged.settings.sync_dir}")


@dataclass(frozen=True, slots=True)
class MLflow:
    """MLflow: `mlflow:EXPERIMENT`, on the server or store that MLFLOW_TRACKING_URI names."""

    target: str

    def log(self, run: Finished) -> str:
        """Log a run with the configuration and the report's files, and below it one run a cell."""
        import mlflow

        mlflow.set_experiment(self.target)
        with mlflow.start_run(run_name=run.name) as logged:
            mlflow.log_params({key: _text(value) for key, value in run.config.items()})
            mlflow.log_artifacts(str(run.report), "report")
            for row in run.cells:
                name = f"{row['task']} {row['model']} {row['strategy']}/{row['allocator']}@{row['budget']}"
                with mlflow.start_run(run_name=name, nested=True):
                    numbers = {key: float(value) for key, value in row.items() if _is_number(value)}
                    mlflow.log_metrics(numbers)
                    mlflow.log_params({key: value for key, value in row.items() if key not in numbers})
            return f"{mlflow.get_tracking_uri()}, run {logged.info.run_id}"


@dataclass(frozen=True, slots=True)
class Trackio:
    """Trackio: `trackio:PROJECT`, on this machine; `trackio show` opens it."""

    target: str

    def log(self, run: Finished) -> str:
        """Log one run with the configuration, one step a cell, and the pictures."""
        import trackio

        trackio.init(project=self.target, name=run.name, config=_plain(run.config))
        for row in run.cells:
            trackio.log({key: value for key, value in row.items() if value is not None})
        trackio.log({name: trackio.Image(str(path)) for name, path in run.pictures.items()})
        trackio.finish()
        return f"trackio show --project {self.target}"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _plain(config: Mapping[str, Any]) -> dict[str, str | int | float]:
    """Return a flat configuration: what is nested becomes JSON."""
    return {key: value if _is_number(value) else _text(value) for key, value in config.items()}
