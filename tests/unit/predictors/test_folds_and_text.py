import math

import numpy as np

from ttc.core.forecast import Seen
from ttc_predictors.folds import folds, groups
from ttc_predictors.text import STATISTICS, masked, statistics


def test_near_duplicates_stay_together_and_folds_are_even():
    texts = [f"Ann {verb} {n} apples. How many?" for verb in ("buys", "sells", "eats", "finds") for n in range(5)]
    texts += [f"Question of its own, {'x' * i}" for i in range(80)]
    problems = [Seen(f"p{i}", text) for i, text in enumerate(texts)]
    member = groups(problems)
    fold = folds(member, 5, seed=0)
    for start in range(0, 20, 5):
        assert len(set(member[start : start + 5])) == 1
        assert len(set(fold[start : start + 5])) == 1
    assert np.ptp(np.bincount(fold, minlength=5)) <= 5
    assert (fold == folds(member, 5, seed=0)).all()
    assert (fold != folds(member, 5, seed=1)).any()


def test_problems_of_a_template_and_those_without_a_text_are_their_own_groups():
    template = [Seen(f"t{i}", f"{i} + {i * 7}") for i in range(50)]
    silent = [Seen(f"s{i}") for i in range(10)]
    assert len(set(groups(template + silent))) == 60


def test_numbers_are_masked():
    assert masked("Tom  has 1,200 coins\nand 3.5 m") == masked("Tom has 7 coins and 22 m") == "tom has 0 coins and 0 m"


def test_statistics_of_a_question():
    found = dict(
        zip(
            STATISTICS, statistics(r"Ann has 12 apples. She eats 3/4 of $\frac{1}{2}$ of them: 1,200+5*2?"), strict=True
        )
    )
    assert found["numbers"] == np.float32(math.log1p(8))
    assert found["distinct_numbers"] == np.float32(math.log1p(7))
    assert found["largest_number"] == np.float32(math.log1p(1200))
    assert found["pluses"] == found["products"] == found["latex_commands"] == np.float32(math.log1p(1))
    assert found["divisions"] == np.float32(math.log1p(2))
    assert found["sentences"] == np.float32(math.log1p(2))
    assert found["dollars"] == np.float32(math.log1p(2))


def test_no_text_is_missing_and_odd_texts_are_numbers():
    assert np.isnan(statistics(None)).all()
    for text in ("", "9" * 400, "🂡" * 10, "\n\n"):
        assert np.isfinite(statistics(text)).all()
