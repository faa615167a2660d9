"""The pipeline of examples/stages.py, tuned on the fake engine."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_tuned_pipeline_beats_the_largest_everywhere_within_its_budget():
    command = [sys.executable, "examples/stages.py", "--questions", "120"]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    told = re.search(r"(\d+) plans tried; the best costs (\d+) of 1500 tokens", out)
    assert told is not None
    assert int(told[1]) <= 50
    assert int(told[2]) <= 1500
    tuned, plain = ([c.strip() for c in line.split("|")[1:-1]] for line in out.splitlines()[3:5])
    assert plain[:3] == ["large x 1"] * 3
    assert tuned[:3] != plain[:3]
    assert float(tuned[4]) > float(plain[4])
    assert abs(float(tuned[3]) - int(told[2])) < 0.25 * int(told[2])  # spent on new questions, as it was measured
