"""The long series, run by `make soak`: every fault on the shipped pair with thirty kills, and an hour at full load."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
pytestmark = [pytest.mark.soak, pytest.mark.engine, pytest.mark.timeout(6 * 3600)]


@pytest.mark.parametrize("words", [["faults.py", "--kills", "30"], ["soak.py", "--minutes", "60"]], ids=lambda w: w[0])
def test_nothing_is_lost_and_nothing_grows(tmp_path, words):
    done = subprocess.run([sys.executable, str(BENCHMARKS / words[0]), *words[1:], "--out", str(tmp_path)], text=True)
    assert done.returncode == 0
