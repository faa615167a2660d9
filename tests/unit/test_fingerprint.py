"""Which model it is, against hashlib and the safetensors library."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from ttc.core.errors import ConfigError, EngineError
from ttc.engines import fingerprint
from ttc.engines.fingerprint import (
    count_parameters,
    find_model,
    fingerprint_folder,
    has_chat_template,
    model_label,
    weights_sha256,
)

CONFIG = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "max_position_embeddings": 64}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("TTC_CACHE_DIR", str(folder))
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "models" / "tiny")


def write_model(folder: Path, **config: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **config}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    weights = {"embed.weight": np.ones((7, 3), np.float32), "lm_head.weight": np.ones((7, 3), np.float32)}
    save_file({**weights, "scale": np.float32([2.0])}, folder / "model.safetensors")
    return folder


def test_finds_a_folder(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_model(str(model)) == model
    monkeypatch.chdir(model.parent)
    assert find_model("tiny") == model  # before any hub name
    assert find_model("./tiny") == model
    assert model_label("./tiny") == model_label(str(model)) == "tiny"
    assert model_label("Qwen/Qwen2.5-0.5B-Instruct") == "Qwen/Qwen2.5-0.5B-Instruct"


def test_a_missing_path_is_a_wrong_request(model: Path) -> None:
    with pytest.raises(ConfigError, match="no such model folder") as told:
        find_model(str(model.with_name("tinny")))
    assert told.value.exit_code == 2
    assert told.value.hint == "did you mean 'tiny'?"
    with pytest.raises(ConfigError, match="a folder, not a file"):
        find_model(str(model / "config.json"))
    with pytest.raises(ConfigError, match="neither a model folder nor a hub name"):
        find_model("not a name")


def test_a_hub_name_that_cannot_be_had(tmp_path: Path) -> None:
    # In a process of its own: the hub library reads its settings when it is imported.
    import subprocess
    import sys

    program = "from ttc.engines.fingerprint import find_model\nfind_model('nobody/no-such-model')"
    settings = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **settings}, capture_output=True, text=True
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ttc.core.errors.EngineError: model 'nobody/no-such-model' is not in the local cache")


def test_a_cached_hub_name_is_its_snapshot(model: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    repository = tmp_path / "home" / "hub" / "models--org--tiny"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    snapshot = repository / "snapshots" / commit
    snapshot.parent.mkdir()
    model.rename(snapshot)
    program = "from ttc.engines.fingerprint import find_model\nprint(find_model('org/tiny'))"
    settings = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **settings}, capture_output=True, text=True
    )
    assert done.stdout.strip() == str(snapshot.resolve()), done.stderr


@pytest.mark.parametrize(
    ("lost", "match"),
    [("config.json", "no config.json"), ("tokenizer", "has no tokenizer"), ("model.safetensors", "has no weights")],
)
def test_an_incomplete_folder_names_what_is_missing(model: Path, lost: str, match: str) -> None:
    for file in model.glob(f"{lost}*"):
        file.unlink()
    with pytest.raises(EngineError, match=match) as told:
        find_model(str(model))
    assert told.value.exit_code == 5
    assert "\n" not in told.value.message


def test_a_missing_shard_is_named(model: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(EngineError, match=r"missing model-00002-of-00002\.safetensors"):
        find_model(str(model))


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda data: data[:-5], "is cut"),
        (lambda data: data[:40], "not a complete"),
        (lambda data: b"version https://git-lfs.github.com/spec/v1\n", "not a complete"),
        (lambda data: b"", "not a complete"),
        (lambda data: data[:8] + b"?" + data[9:], "not a safetensors"),
    ],
    ids=["cut", "cut in the header", "pointer", "empty", "header"],
)
def test_damaged_weights_are_noticed(model: Path, damage: Any, match: str) -> None:
    file = model / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(EngineError, match=match):
        find_model(str(model))


def test_an_adapter_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="names no architecture"):
        find_model(str(write_model(tmp_path / "adapter", architectures=None)))


def test_counts_parameters(model: Path, tmp_path: Path) -> None:
    assert count_parameters(model) == 7 * 3 + 7 * 3 + 1
    assert count_parameters(write_model(tmp_path / "tied", tie_word_embeddings=True)) == 7 * 3 + 1
    assert count_parameters(write_model(tmp_path / "packed", quantization_config={"bits": 4})) is None
    save_file({"other": np.ones((5, 5), np.float16)}, model / "model-2.safetensors")
    assert count_parameters(model) == 7 * 3 + 7 * 3 + 1 + 25
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"other": "model-2.safetensors"}}))
    assert count_parameters(model) == 25  # the other file is a copy that is not loaded


def test_a_chat_template_is_looked_for_wherever_it_may_be(model: Path) -> None:
    assert has_chat_template(model)
    (model / "tokenizer_config.json").write_text("{}")
    assert not has_chat_template(model)
    (model / "chat_template.jinja").write_text("{{ messages }}")
    assert has_chat_template(model)


def test_equal_content_has_an_equal_fingerprint_wherever_it_lies(model: Path, tmp_path: Path) -> None:
    first = fingerprint_folder(model)
    assert first.startswith("sha256:")
    assert fingerprint_folder(write_model(tmp_path / "elsewhere" / "copy")) == first


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
def test_every_file_that_matters_changes_the_fingerprint(model: Path, name: str) -> None:
    before = fingerprint_folder(model)
    file = model / name
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    assert fingerprint_folder(model) != before


def test_what_does_not_matter_does_not(model: Path) -> None:
    before = fingerprint_folder(model)
    (model / "README.md").write_text("a model")
    (model / "trainer_state.json").write_text("{}")
    assert fingerprint_folder(model) == before


def test_large_weights_are_sampled_and_say_so(model: Path) -> None:
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes() + bytes(5 << 20))
    full, sampled = fingerprint_folder(model), fingerprint_folder(model, limit=1000)
    assert sampled.startswith("sampled-sha256:")
    data = bytearray(file.read_bytes())
    data[3 << 20] = 1  # in the middle
    file.write_bytes(bytes(data))
    assert fingerprint_folder(model, limit=1000) == sampled
    assert fingerprint_folder(model) != full
    data[-1] = 1
    file.write_bytes(bytes(data))
    assert fingerprint_folder(model, limit=1000) != sampled


def test_weights_sha256(model: Path) -> None:
    first = (model / "model.safetensors").read_bytes()
    assert weights_sha256(model) == hashlib.sha256(first).hexdigest()
    second = b"more"
    (model / "part.safetensors").write_bytes(second)
    lines = f"{hashlib.sha256(first).hexdigest()}  model.safetensors\n{hashlib.sha256(second).hexdigest()}  part.safetensors\n"
    assert weights_sha256(model) == hashlib.sha256(lines.encode()).hexdigest()
    for file in model.glob("*.safetensors"):
        file.unlink()
    with pytest.raises(EngineError, match="no weights"):
        weights_sha256(model)


def test_unchanged_weights_are_not_read_again(model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = model / "model.safetensors"
    first = weights_sha256(model)
    assert list(json.loads((cache / "hashes.json").read_text())) == [str(file)]

    def refuse(path: Path) -> str:
        raise AssertionError(f"read {path}")

    with monkeypatch.context() as patch:
        patch.setattr(fingerprint, "file_sha256", refuse)
        assert weights_sha256(model) == first
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    os.utime(file, ns=(1, 1))
    assert weights_sha256(model) == hashlib.sha256(bytes(data)).hexdigest()


@pytest.mark.parametrize("content", [b"{broken", b"[]", b'{"x": 1}'])
def test_a_broken_cache_is_an_empty_one(model: Path, cache: Path, content: bytes) -> None:
    cache.mkdir()
    (cache / "hashes.json").write_bytes(content)
    expected = hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
    assert weights_sha256(model) == expected


def test_a_cache_that_cannot_be_written_is_no_error(model: Path, cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    expected = hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
    assert weights_sha256(model) == expected
