"""A disk that fills up at any moment, and folders that take nothing."""

import contextlib
import os
import resource
import shutil
import subprocess

import pytest
from run_folder import RECORDS, SWEEP, check_complete, sweep

from ttc.cli.main import run
from ttc.testing.breaking import records

FULL = ("No space left on device", "File too large", "database or disk is full", "disk I/O error")


@contextlib.contextmanager
def room(folder, kilobytes):
    """Give the folder a file system of this size where this user may mount one, else limit every file's length."""
    folder.mkdir()
    size = ["-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(folder)]
    if os.geteuid() == 0 and subprocess.run(["mount", *size], capture_output=True).returncode == 0:
        try:
            yield
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True)
        return
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes << 8, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("kilobytes", [8, 64, 260])
def test_a_disk_that_fills_up(folder, whole, capsys, kilobytes):
    """From before the first record to after the last one: told in one line, and with room again nothing is lost."""
    with room(folder / "small", kilobytes):
        assert sweep(folder / "small" / "run") == 6
        error, *hint = capsys.readouterr().err.splitlines()[-2:]
        assert error.startswith("error: ")
        assert any(reason in error for reason in FULL)
        assert "free some space" in hint[0]
        shutil.copytree(folder / "small" / "run", folder / "run", dirs_exist_ok=True)
    kept = records_whole(folder / "run")
    assert sweep(folder / "run") == 0
    check_complete(folder / "run", whole, kept)


def records_whole(out):
    from ttc.store.journal import read_journal

    assert read_journal(out / "journal").damaged == []
    return records(out) if (out / "journal" / "main.jsonl").exists() else []


@contextlib.contextmanager
def read_only(folder):
    """Take the right to write from a folder: of root by a mount, of others by its mode."""
    if os.geteuid() == 0:
        bound = subprocess.run(["mount", "--bind", str(folder), str(folder)], capture_output=True)
        if bound.returncode:
            pytest.fail(f"this root may not mount: {bound.stderr.decode()}")
        try:
            subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
            yield
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True)
        return
    folder.chmod(0o555)
    try:
        yield
    finally:
        folder.chmod(0o755)


def test_a_results_folder_that_takes_nothing(folder, capsys):
    """It is told before anything is generated."""
    (folder / "results").mkdir()
    with read_only(folder / "results"):
        assert run(SWEEP) == 6
    error, hint = capsys.readouterr().err.splitlines()[-2:]
    assert error.startswith("error: cannot write results/")
    assert hint == "hint: make it writable, or write to another folder"
    assert list((folder / "results").iterdir()) == []


def test_an_unfinished_run_in_a_read_only_folder_goes_on_when_it_may(folder, whole, capsys):
    out = folder / "results" / "run"
    shutil.copytree(whole, out)
    journal = out / "journal" / "main.jsonl"
    journal.write_bytes(journal.read_bytes()[: journal.stat().st_size // 2])
    kept = records(out)
    assert 0 < len(kept) < RECORDS
    before = journal.read_bytes()
    with read_only(folder / "results"):
        assert sweep(out) == 6
        assert "cannot write" in capsys.readouterr().err.splitlines()[-2]
    assert journal.read_bytes() == before
    assert sweep(out) == 0
    check_complete(out, whole, kept)


def test_a_finished_run_in_a_read_only_folder_is_not_lost(folder, whole, capsys):
    """Its report cannot be made anew there, and that is what is said."""
    shutil.copytree(whole, folder / "results" / "run")
    with read_only(folder / "results"):
        assert run(["report", "results/run", "--rebuild"]) == 6
        error, hint = capsys.readouterr().err.splitlines()[-2:]
    assert error.startswith("error: cannot write results/run/")
    assert hint == "hint: make it writable, or write to another folder"
    check_complete(folder / "results" / "run", whole, records(whole))
