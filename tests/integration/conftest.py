"""A folder to work in."""

import pytest
from documented import write_rows


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with rows that the fake engine can solve."""
    write_rows(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path
