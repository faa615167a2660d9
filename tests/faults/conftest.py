"""A folder with problems in it, and the same sweep's run to which nothing happened."""

import pytest
from run_folder import sweep, write_rows


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """Return the folder of an unbroken run."""
    folder = tmp_path_factory.mktemp("whole")
    write_rows(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert sweep(folder / "run") == 0
    return folder / "run"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    write_rows(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path
