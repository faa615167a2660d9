"""The package's own words: three lines from Python, and nothing heavy before they are used."""

import subprocess
import sys

import ttc.allocate


def test_the_three_lines_run():
    lines = ttc.allocate.__doc__.strip().splitlines()[2:]
    assert len(lines) == 3
    names = {}
    exec("\n".join(lines), names)
    assert 0 < sum(names["grants"]) <= 2000
    assert names["grants"].tolist()[1] > names["grants"].tolist()[2] >= 120


def test_every_public_name_is_there_and_loads_late():
    for name in ttc.allocate.__all__:
        assert getattr(ttc.allocate, name).__name__ == name
    code = "import sys, ttc.allocate.uniform; print('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
