"""One process writes a run, the same request resumes it, another one is refused."""

import errno
import fcntl
import os
import signal
import subprocess
import sys

import pytest

from ttc.core.errors import ConfigError, DataError, StorageError
from ttc.store import rundir
from ttc.store.rundir import RunDir, find_run

HOLD = """
import sys, time
from pathlib import Path
from ttc.store.rundir import RunDir
run = RunDir(Path(sys.argv[1]))
run.open_for_writing({"seed": 1}, "abc")
print("open", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "run"], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "open\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def opened(path, spec=None, spec_id="abc"):
    run = RunDir(path)
    run.open_for_writing(spec if spec is not None else {"seed": 1}, spec_id)
    return run


def test_a_second_process_is_kept_out_and_a_killed_one_leaves_no_lock(tmp_path, holder):
    with pytest.raises(StorageError, match="another process is running in") as caught:
        opened(tmp_path / "run")
    assert (caught.value.exit_code, "--out" in caught.value.hint) == (6, True)
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    run = opened(tmp_path / "run")
    assert run.locked
    assert run.read_manifest()["spec_id"] == "abc"
    run.close()


def test_a_shard_waits_for_the_one_that_writes_the_report(tmp_path, monkeypatch):
    last, shard, waits, notes = RunDir(tmp_path), RunDir(tmp_path), [], []
    last.open_for_writing({"seed": 1}, "abc", "shard-2-of-2")
    assert last.take_whole()

    def wait(seconds):
        waits.append(seconds)
        if len(waits) == 2:
            last.close()

    monkeypatch.setattr(rundir.time, "sleep", wait)
    shard.open_for_writing({"seed": 1}, "abc", "shard-1-of-2", notes.append)
    assert len(waits) == 2
    assert notes == [f"waiting for the report that another shard is writing in {tmp_path}"]

    assert shard.take_whole()
    monkeypatch.setattr(rundir, "SHARED_PATIENCE_S", 0.0)
    with pytest.raises(StorageError, match="another process is running in") as caught:
        last.open_for_writing({"seed": 1}, "abc", "shard-2-of-2")
    shard.close()
    assert caught.value.hint == "wait for it, then run the same command again"


def test_a_shard_does_not_wait_for_a_command_without_one(tmp_path):
    """Which may take hours."""
    whole, shard = opened(tmp_path), RunDir(tmp_path)
    with pytest.raises(StorageError, match="a command without --shard is running in"):
        shard.open_for_writing({"seed": 1}, "abc", "shard-1-of-2")
    whole.close()
    shard.open_for_writing({"seed": 1}, "abc", "shard-1-of-2")
    assert shard.take_whole()  # and what the first one said of itself is gone
    second = RunDir(tmp_path)
    with pytest.raises(TimeoutError):
        second.open_for_writing({"seed": 1}, "abc", "shard-2-of-2", note_that_raises)
    shard.close()


def note_that_raises(text):
    raise TimeoutError(text)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
@pytest.mark.parametrize("when", ["open", "set up", "end"])
def test_a_file_system_without_locks_is_told(when, code, tmp_path, monkeypatch):
    def refuse(lock, kind):
        raise OSError(code, os.strerror(code))

    run, files = RunDir(tmp_path), []
    if when == "open":
        monkeypatch.setattr(fcntl, "flock", lambda lock, kind: files.append(lock) or refuse(lock, kind))
    with pytest.raises(StorageError, match="cannot lock .*: " + os.strerror(code)) as caught:
        run.open_for_writing({"seed": 1}, "abc", "shard-1-of-2")
        monkeypatch.setattr(fcntl, "flock", refuse)
        if when == "end":
            run.take_whole()
        with run.setting_up():
            raise AssertionError("nothing is set up without a lock")
    assert "NFS 4, or Lustre mounted with flock" in caught.value.hint
    assert all(file.closed for file in files)
    run.close()


def test_a_finished_run_that_goes_on_is_not_finished(tmp_path):
    run = opened(tmp_path)
    run.write_json("manifest.json", {**run.read_manifest(), "state": "finished", "finished_at": "then"})
    run.reopen()
    assert run.read_manifest() == {"spec_id": "abc", "state": "running", "restarts": []}
    run.close()


def test_reading_needs_no_lock(tmp_path, holder):
    assert RunDir.existing(tmp_path / "run").read_manifest()["state"] == "running"


def test_a_refused_second_writer_changes_nothing(tmp_path, holder):
    files = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    run = RunDir(tmp_path / "run")
    with pytest.raises(StorageError):
        run.open_for_writing({"seed": 2}, "other")
    assert not run.locked
    assert {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()} == files


def test_the_same_request_resumes_and_keeps_the_manifest(tmp_path):
    run = opened(tmp_path)
    run.write_json("manifest.json", {**run.read_manifest(), "command": "first"})
    run.close()
    again = opened(tmp_path, {"seed": 1, "overlap": True})
    assert again.read_manifest()["command"] == "first"
    again.close()


def test_another_request_is_refused_naming_what_differs(tmp_path):
    opened(tmp_path, {"seed": 1, "budgets": [5], "limit": 3}).close()
    with pytest.raises(ConfigError) as caught:
        opened(tmp_path, {"seed": 2, "budgets": [5], "draws": 8}, "def")
    assert caught.value.message.endswith("(abc, not def): it differs in draws, limit, seed")
    assert "--out" in caught.value.hint
    opened(tmp_path).close()  # a refusal keeps no lock


def test_equal_words_for_other_data_are_told_so(tmp_path):
    opened(tmp_path).close()
    with pytest.raises(ConfigError, match="the data or the model behind the same names"):
        opened(tmp_path, spec_id="def")


def test_a_lost_configuration_still_refuses(tmp_path):
    opened(tmp_path).close()
    (tmp_path / "config.yaml").unlink()
    with pytest.raises(ConfigError, match=r"config\.yaml cannot be read"):
        opened(tmp_path, spec_id="def")


@pytest.mark.parametrize("content", ["", "{", "[1]", "null"])
def test_a_damaged_manifest_is_a_storage_error_that_keeps_no_lock(tmp_path, content):
    opened(tmp_path).close()
    (tmp_path / "manifest.json").write_text(content)
    run = RunDir(tmp_path)
    with pytest.raises(StorageError, match=r"manifest\.json"):
        run.open_for_writing({"seed": 1}, "abc")
    assert not run.locked


def test_a_folder_that_cannot_be_written_is_a_storage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        opened(tmp_path / "file" / "run")


def test_a_file_is_replaced_as_a_whole(tmp_path, monkeypatch):
    run = RunDir(tmp_path)
    run.write_text("f.txt", "old")
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(StorageError, match="No space left"):
        run.write_text("f.txt", "new")
    assert (tmp_path / "f.txt").read_text() == "old"


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path):
    (tmp_path / "log.txt").mkdir()
    RunDir(tmp_path).log("line")


def test_a_folder_without_a_run_is_told_with_the_runs_in_it(tmp_path):
    opened(tmp_path / "one").close()
    with pytest.raises(DataError) as caught:
        RunDir.existing(tmp_path)
    assert caught.value.hint == "runs in it: one"


def test_an_unfinished_run_is_found_whatever_its_date_and_a_finished_one_is_not(tmp_path):
    for name, spec_id, state in (
        ("2024-a", "abc", "finished"),
        ("2024-b", "abc", "running"),
        ("2024-c", "x", "running"),
    ):
        RunDir(tmp_path / name).write_json("manifest.json", {"spec_id": spec_id, "state": state})
    RunDir(tmp_path / "2023-broken").write_text("manifest.json", "{")
    assert find_run(tmp_path, "abc", "2025-new") == tmp_path / "2024-b"
    assert find_run(tmp_path, "other", "2025-new") == tmp_path / "2025-new"
    assert find_run(tmp_path / "none", "abc", "new") == tmp_path / "none" / "new"


def test_the_cache_lies_in_the_run_or_in_a_shared_folder(tmp_path):
    assert RunDir(tmp_path).cache_file(None) == tmp_path / "cache.sqlite"
    assert RunDir(tmp_path).cache_file(str(tmp_path / "shared")) == tmp_path / "shared" / "cache.sqlite"
