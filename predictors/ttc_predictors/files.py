"""A predictor's folder: LightGBM's text models beside one JSON file. Nothing in it is ever executed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ttc.core.errors import DataError, StorageError
from ttc.core.forecast import PREDICTOR_FILE
from ttc.core.identity import identity
from ttc_predictors.boosting import Forest
from ttc_predictors.trees import check

FORMAT, VERSION = "ttc-predictor", 1
AGAIN = "fit it again: ttc fit"


@dataclass
class Shelf:
    """The text files of a predictor, by name."""

    texts: dict[str, str] = field(default_factory=dict)

    def put(self, name: str, forest: Forest | None) -> str | None:
        """Keep a forest as NAME.txt and return that name."""
        if forest is None:
            return None
        self.texts[f"{name}.txt"] = forest.text
        return f"{name}.txt"

    def get(self, name: str | None, width: int, threads: int) -> Forest:
        """Return a forest of `width` features. Raises DataError or KeyError where there is none."""
        text = self.texts[str(name)]
        check(text, width)
        return Forest(text, threads)


def write(folder: Path, content: Mapping[str, Any], shelf: Shelf, report: Mapping[str, Any]) -> None:
    """Write a predictor, its JSON last. Raises StorageError."""
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / PREDICTOR_FILE).exists())):
        raise StorageError(f"{folder} exists and holds no predictor", "give another --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob("*.txt"):
            stale.unlink()
        for name, text in shelf.texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        (folder / "report.json").write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        partial = folder / f".{PREDICTOR_FILE}.partial"
        partial.write_text(json.dumps(sealed(content, shelf), allow_nan=False) + "\n", encoding="utf-8")
        partial.replace(folder / PREDICTOR_FILE)
    except OSError as error:
        raise StorageError(f"cannot write {folder}: {error.strerror or error}") from error


def sealed(content: Mapping[str, Any], shelf: Shelf) -> dict[str, Any]:
    """Return the content of predictor.json with the files' hashes and a fingerprint of all."""
    files = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in sorted(shelf.texts.items())}
    whole = {"format": FORMAT, "version": VERSION, **content, "files": files}
    return {**whole, "fingerprint": identity(whole, 16)}


def read(folder: Path) -> tuple[dict[str, Any], Shelf, dict[str, Any]]:
    """Return the content, the text files and the report of a stored predictor, checked against their hashes.

    Raises:
        DataError: it is none, of another version, or damaged.
    """
    content = read_json(folder / PREDICTOR_FILE)
    if content.get("format") != FORMAT:
        raise DataError(f"{folder} is not a predictor", AGAIN)
    if content.get("version") != VERSION:
        raise DataError(f"{folder} is of version {content.get('version')!r}, this program reads {VERSION}", AGAIN)
    whole = {key: value for key, value in content.items() if key != "fingerprint"}
    files = content.get("files")
    if not isinstance(files, dict) or identity(whole, 16) != content.get("fingerprint"):
        raise DataError(f"{folder / PREDICTOR_FILE} is damaged: its fingerprint does not fit its content", AGAIN)
    shelf = Shelf()
    for name, digest in files.items():
        try:
            text = (folder / Path(name).name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read {folder / name}: {error}", AGAIN) from error
        if hashlib.sha256(text.encode()).hexdigest() != digest:
            raise DataError(f"{folder / name} is damaged: its SHA-256 does not fit", AGAIN)
        shelf.texts[name] = text
    report = folder / "report.json"
    return content, shelf, read_json(report) if report.exists() else {}


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object. Raises DataError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not whole JSON"
        raise DataError(f"cannot read {path}: {reason}", AGAIN) from error
    if not isinstance(value, dict):
        raise DataError(f"{path} holds no JSON object", AGAIN)
    return value
