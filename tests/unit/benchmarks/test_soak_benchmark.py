"""The soak's judgement: growth is found in noise, and noise is not taken for growth."""

import numpy as np
import pytest
from bench_scripts import load_script

soak = load_script("soak")


def samples(per_hour, noise, jump=0.0, sweeps=3, each_s=1200.0):
    """Return a role's samples: a level for each sweep, a warm-up at its start, a slope in MB an hour, noise in MB."""
    dice, found = np.random.default_rng(5), []
    for n in range(sweeps):
        for at in np.arange(0.0, each_s, 5.0):
            warm = -80.0 * np.exp(-at / 60)
            level = 500.0 + jump * n + warm + per_hour * at / 3600 + noise * dice.standard_normal()
            found.append(soak.Sample(n * each_s + at, n, "program", level, 40))
    return found


@pytest.mark.parametrize("per_hour", [0.0, 30.0, 200.0])
def test_a_slope_within_sweeps_is_found_whatever_their_levels(per_hour):
    found, error, level = soak.slope(samples(per_hour, noise=3.0, jump=-20.0), "rss_mb")
    assert abs(found - per_hour) < 4 * error
    assert error < 5
    assert 440 < level < 560


def test_files_that_never_change_have_no_slope():
    assert soak.slope(samples(0.0, noise=3.0), "files")[:2] == (0.0, 0.0)


def test_what_each_sweep_leaves_behind_is_seen():
    assert soak.between(samples(0.0, noise=1.0, jump=40.0), "rss_mb") == pytest.approx(40.0, abs=2)
    assert soak.between(samples(0.0, noise=1.0, sweeps=2), "rss_mb") == 0.0


@pytest.mark.parametrize(
    ("per_hour", "jump", "grows"), [(0.0, 0.0, False), (90.0, 0.0, True), (0.0, 40.0, True), (0.0, -40.0, False)]
)
def test_what_counts_as_growth(per_hour, jump, grows):
    assert soak.grows(samples(per_hour, noise=5.0, jump=jump), "rss_mb", soak.ALLOWED_MB, hours=1.0) == grows
