"""Which model this is: find its folder, check it, count its parameters, name its content.

Not covered: weights in other formats than safetensors are hashed, but neither checked nor counted.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ttc.core.errors import ConfigError, EngineError, did_you_mean
from ttc.core.identity import canonical_json, file_sha256
from ttc.core.secrets import without_user

FULL_HASH_LIMIT = 16 << 30
"""Bytes of weights up to which every byte is hashed; about half a minute on one core."""
_SAMPLED_BYTES = 1 << 20
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf")
_SETTINGS = frozenset(
    {
        "added_tokens.json",
        "chat_template.jinja",
        "chat_template.json",
        "config.json",
        "generation_config.json",
        "hf_quant_config.json",
        "merges.txt",
        "params.json",
        "quantize_config.json",
        "special_tokens_map.json",
        "spiece.model",
        "tekken.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "vocab.json",
        "vocab.txt",
    }
)
_DOWNLOADED = ["*.json", "*.jinja", "*.txt", "*.model", "*.safetensors", "*.tiktoken"]


def model_label(model: str) -> str:
    """Return the name a model has in results: its hub name or its folder's base name, never a path."""
    return Path(model).expanduser().resolve().name if _is_path(model) else model


def find_model(model: str, revision: str | None = None) -> Path:
    """Return the folder of a model: a local one, or a hub name's snapshot (downloaded where it is missing).

    Raises:
        ConfigError: a path that does not exist, or something that is neither a path nor a hub name.
        EngineError: a folder without a model in it, damaged weights, or a hub name that cannot be had.
    """
    if _is_path(model):
        folder = Path(model).expanduser()
        if not folder.exists():
            raise ConfigError(f"no such model folder: {without_user(model)}", _nearby(folder))
        if not folder.is_dir():
            raise ConfigError(f"a model is a folder, not a file: {model}", "give the folder that holds config.json")
    elif _HUB_NAME.fullmatch(model):
        folder = _snapshot(model, revision)
    else:
        raise ConfigError(
            f"{without_user(model)!r} is neither a model folder nor a hub name",
            "give FOLDER, ORGANISATION/NAME or http://HOST/v1#NAME",
        )
    _check(folder, model)
    return folder.resolve()


def read_config(folder: Path) -> dict[str, Any]:
    """Return a model's `config.json`. Raises EngineError where it cannot be read."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EngineError(f"cannot read {path}: {error}", "download the model again") from error
    if not isinstance(config, dict):
        raise EngineError(f"{path} does not hold a JSON object", "download the model again")
    return config


def quantisation(folder: Path) -> Any:
    """Return what a model says of its quantisation, in `config.json` or in GPTQ's own file; None where it has none."""
    if own := read_config(folder).get("quantization_config"):
        return own
    path = folder / "quantize_config.json"
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    except (OSError, ValueError, RecursionError) as error:
        raise EngineError(f"cannot read {path}: {error}", "download the model again") from error


def has_chat_template(folder: Path) -> bool:
    """Say whether the model's own files define how a chat is turned into tokens."""
    if any((folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json", "tekken.json")):
        return True
    settings = folder / "tokenizer_config.json"
    try:
        return bool(json.loads(settings.read_text(encoding="utf-8")).get("chat_template"))
    except (OSError, ValueError, AttributeError):
        return False


def count_parameters(folder: Path) -> int | None:
    """Return how many parameters the weights hold, from the safetensors headers.

    None where there are no safetensors, or where the weights are quantised: packed numbers cannot be counted.
    """
    if quantisation(folder):
        return None
    files = _safetensors(folder)
    if not files:
        return None
    tensors = {name: entry for file in files for name, entry in _header(file).items() if name != "__metadata__"}
    if read_config(folder).get("tie_word_embeddings") and len(tensors) > 1:
        tensors.pop("lm_head.weight", None)  # some files hold the tied embedding a second time
    return sum(int(math.prod(entry["shape"])) for entry in tensors.values())


def fingerprint_folder(folder: Path, limit: int = FULL_HASH_LIMIT) -> str:
    """Return a name for a model's content: configuration, tokenizer and weights, whatever the folder is called.

    `sha256:...` when every byte of the weights was read. Above `limit` bytes of weights it is
    `sampled-sha256:...`: size and first and last MiB of each weights file.
    """
    weights = _weights(folder)
    full = sum(file.stat().st_size for file in weights) <= limit
    cache = HashCache()
    content: dict[str, str] = {}
    for file in sorted(folder.iterdir()):
        if file.name in _SETTINGS or file.suffix == ".tiktoken":
            content[file.name] = file_sha256(file)
    for file in weights:
        content[file.name] = cache.sha256(file) if full else _sampled_sha256(file)
    cache.save()
    digest = hashlib.sha256(canonical_json(content).encode()).hexdigest()
    return f"{'sha256' if full else 'sampled-sha256'}:{digest}"


def weights_sha256(folder: Path) -> str:
    """Return the SHA-256 of a model's weights, every byte of them.

    For one file that is the file's own; for several it is that of their `sha256sum` lines in name order.
    Raises EngineError where there are none.
    """
    weights = _weights(folder)
    if not weights:
        raise EngineError(f"no weights in {folder}", "download the model again")
    cache = HashCache()
    sums = [(cache.sha256(file), file.name) for file in weights]
    cache.save()
    if len(sums) == 1:
        return sums[0][0]
    return hashlib.sha256("".join(f"{sha}  {name}\n" for sha, name in sums).encode()).hexdigest()


class HashCache:
    """Hashes of large files by path, size and time of change, in `~/.cache/ttc` or `TTC_CACHE_DIR`.

    Only saves time: a cache that cannot be read or written is an empty one.
    """

    def __init__(self) -> None:
        folder = Path(os.environ.get("TTC_CACHE_DIR") or Path.home() / ".cache" / "ttc")
        self._path = folder / "hashes.json"
        self._known = self._read()
        self._new: dict[str, list[Any]] = {}

    def sha256(self, file: Path) -> str:
        """Return a file's SHA-256, from the cache where the file has not changed since."""
        real = file.resolve()
        stat = real.stat()
        stamp = [stat.st_size, stat.st_mtime_ns]
        known = self._known.get(str(real))
        if isinstance(known, list) and len(known) == 3 and known[:2] == stamp and isinstance(known[2], str):
            return known[2]
        digest = file_sha256(real)
        self._new[str(real)] = [*stamp, digest]
        return digest

    def save(self) -> None:
        """Write what was computed, beside what other processes have written meanwhile."""
        if not self._new:
            return
        temporary = self._path.with_suffix(f".{os.getpid()}.tmp")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps({**self._read(), **self._new}, indent=1), encoding="utf-8")
            temporary.replace(self._path)
        except OSError:
            return

    def _read(self) -> dict[str, Any]:
        try:
            known = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}


def _is_path(model: str) -> bool:
    # A folder that exists wins over a hub name, as it does in transformers and vLLM.
    return model.startswith(("/", ".", "~")) or model.count("/") > 1 or Path(model).exists()


def _nearby(folder: Path) -> str:
    parent = folder.parent
    if not parent.is_dir():
        return f"{parent} does not exist either"
    return did_you_mean(folder.name, [child.name for child in parent.iterdir() if child.is_dir()])


def _snapshot(model: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    def find(*, offline: bool) -> Path:
        return Path(snapshot_download(model, revision=revision, local_files_only=offline, allow_patterns=_DOWNLOADED))

    try:
        folder = find(offline=True)
        if (folder / "config.json").is_file() and _weights(folder):
            return folder
    except LocalEntryNotFoundError:
        pass
    except HFValidationError as error:
        raise ConfigError(f"{model!r} is not a valid hub name", "give ORGANISATION/NAME") from error
    try:
        return find(offline=False)
    except GatedRepoError as error:
        raise EngineError(f"model {model!r} is gated", "accept its licence on the hub, then set HF_TOKEN") from error
    except RepositoryNotFoundError as error:
        raise EngineError(
            f"no model {model!r} on the hub", "check the name; a private model needs HF_TOKEN; a folder needs ./"
        ) from error
    except RevisionNotFoundError as error:
        raise EngineError(f"model {model!r} has no revision {revision!r}", "give a branch, tag or commit") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise EngineError(
            f"model {model!r} is not in the local cache and the hub cannot be reached",
            "give a model folder, or connect to the hub",
            retryable=True,
        ) from error


def _check(folder: Path, model: str) -> None:
    if not (folder / "config.json").is_file():
        raise EngineError(f"{model} is not a model: it has no config.json", "give the folder that holds config.json")
    config = read_config(folder)
    if not config.get("architectures"):
        raise EngineError(f"{model}: config.json names no architecture", "give a complete model, not an adapter")
    if not any((folder / name).is_file() for name in _SETTINGS if name.startswith(("token", "tekken", "spiece"))):
        raise EngineError(f"{model} has no tokenizer", "download the model again, with tokenizer.json")
    index = _index(folder)
    missing = sorted(name for name in set(index.values()) if not (folder / name).is_file())
    if missing or not _weights(folder):
        raise EngineError(f"{model} has no weights: missing {', '.join(missing) or '*.safetensors'}", "download again")
    for file in _safetensors(folder):
        _header(file)


def _index(folder: Path) -> Mapping[str, str]:
    path = folder / "model.safetensors.index.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8")).get("weight_map", {})
    except (OSError, ValueError, AttributeError):
        return {}
    return found if isinstance(found, dict) else {}


def _weights(folder: Path) -> list[Path]:
    for pattern in _WEIGHTS:
        files = sorted(folder.glob(pattern))
        if files:
            return files
    return []


def _safetensors(folder: Path) -> list[Path]:
    # An index leaves out a second copy of the weights, such as `consolidated.safetensors`.
    indexed = sorted({folder / name for name in _index(folder).values()})
    return indexed or sorted(folder.glob("*.safetensors"))


def _header(file: Path) -> dict[str, Any]:
    # The format: eight bytes of little-endian length, that much JSON, then the tensors without gaps.
    size = file.stat().st_size
    again = "download it again (a Git LFS pointer is not the file itself)"
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length + 8 > size:
            raise EngineError(f"{file} is not a complete safetensors file", again)
        try:
            header = json.loads(stream.read(length))
            end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise EngineError(f"{file} is not a safetensors file", again) from error
    if end != size - 8 - length:
        raise EngineError(f"{file} is cut: {size} bytes of {end + 8 + length}", again)
    return dict(header)


def _sampled_sha256(file: Path) -> str:
    size = file.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with file.open("rb") as stream:
        digest.update(stream.read(_SAMPLED_BYTES))
        stream.seek(max(0, size - _SAMPLED_BYTES))
        digest.update(stream.read(_SAMPLED_BYTES))
    return digest.hexdigest()
