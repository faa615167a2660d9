"""The search over a pipeline's stages, against exhaustive search on small grids."""

import itertools

import numpy as np
import pytest

from ttc.allocate.stages import StageChoice, StageModel, stages, unit_budget
from ttc.core.errors import ConfigError, DataError

GRID = (1, 2, 4, 8, 16)
CHEAP, DEAR = StageModel("small", 2, 1), StageModel("large", 8, 4)


def cost_of(options, choices):
    return sum(
        m[c.model].prompt_cost + c.samples * m[c.model].sample_cost for m, c in zip(options, choices, strict=True)
    )


def affordable(options, budget, grid=GRID):
    each = [[StageChoice(m, n) for m in range(len(models)) for n in grid] for models in options]
    return [c for c in itertools.product(*each) if cost_of(options, c) <= budget]


class Pipeline:
    """Three random stages: each has its own best model and number of samples, and builds on the one before."""

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        models = int(rng.integers(2, 4))
        self.options = [
            [StageModel(str(m), rng.uniform(0, 2) * 4**m, rng.uniform(1, 3) * 3**m) for m in range(models)]
            for _ in range(3)
        ]
        self.rates = np.sort(rng.uniform(0.1, 0.9, (3, models)), axis=1)
        self.peaks = rng.integers(0, 5, (3, models))
        self.chained = bool(seed % 2)
        least = sum(min(m.cost(1) for m in s) for s in self.options)
        self.budget = rng.uniform(least, 2 * sum(max(m.cost(1) for m in s) for s in self.options))
        self.calls = []

    def __call__(self, choices):
        self.calls.append(choices)
        value = 1.0
        for stage, c in enumerate(choices):
            rate = self.rates[stage, c.model]
            if self.chained:  # what comes before decides how well a stage can do
                value = 1 - (1 - rate * (0.3 + 0.7 * value)) ** c.samples
            else:  # rises to an optimum, then falls
                value *= rate * np.exp(-0.15 * (np.log2(c.samples) - self.peaks[stage, c.model]) ** 2)
        return value


def test_near_the_best_of_all_plans_for_a_fraction_of_the_evaluations():
    ratios, by_chance, shares = [], [], []
    for seed in range(80):
        pipeline = Pipeline(seed)
        plan = stages(pipeline.options, pipeline, pipeline.budget, samples=GRID)
        evaluated = pipeline.calls
        assert len(evaluated) == len(set(evaluated)) == len(plan.trials) <= 50
        assert [t.choices for t in plan.trials] == evaluated
        assert all(t.cost == pytest.approx(cost_of(pipeline.options, t.choices)) for t in plan.trials)
        assert all(cost_of(pipeline.options, t.choices) <= pipeline.budget for t in plan.trials)
        assert plan.value == max(t.value for t in plan.trials) == pipeline(plan.choices)
        fits = affordable(pipeline.options, pipeline.budget)
        values = np.array([pipeline(c) for c in fits])
        ratios.append(plan.value / values.max())
        drawn = np.random.default_rng(seed).permutation(values)[: len(plan.trials)]
        by_chance.append(drawn.max() / values.max())
        shares.append(len(plan.trials) / len(fits))
    assert np.mean(ratios) > 0.98
    assert np.mean(np.array(ratios) > 1 - 1e-9) > 0.7
    assert 1 - np.mean(ratios) < 0.5 * (1 - np.mean(by_chance))  # random search with as many trials
    assert np.mean(shares) < 0.35


def test_the_start_gives_each_stage_each_model_for_one_pass_of_the_largest():
    trials = []

    def flat(choices):
        trials.append(tuple((c.model, c.samples) for c in choices))
        return 0.0

    stages([[CHEAP, DEAR]] * 2, flat, 100, samples=range(1, 40), max_trials=4)
    large, small = (1, 1), (0, 10)  # 2 + 10 * 1 = 8 + 1 * 4
    assert trials[:3] == [(large, large), (small, large), (large, small)]


def test_one_stage_is_searched_exactly_where_it_has_one_peak():
    models = [CHEAP, DEAR]
    for best in itertools.product(range(2), GRID):

        def value(choices, best=best):
            (c,) = choices
            return -abs(np.log2(c.samples) - np.log2(best[1])) - 3 * (c.model != best[0])

        plan = stages([models], value, 1e9, samples=GRID)
        assert (plan.choices[0].model, plan.choices[0].samples) == best


def test_a_direction_is_given_up_after_two_steps_without_gain():
    asked = []

    def value(choices):
        asked.append(choices[0].samples)
        return {1: 0.5, 2: 0.6, 4: 0.55, 8: 0.55, 16: 0.9}.get(choices[0].samples, 0.0)

    plan = stages([[CHEAP]], value, 1e9, samples=(1, 2, 4, 8, 16, 32))
    assert asked == [1, 2, 4, 8]
    assert plan.value == 0.6


def test_what_lies_downstream_of_a_change_is_tuned_after_it():
    def value(choices):  # the second stage is best with as many samples as the first one has, the first with 8
        first, second = (np.log2(c.samples) for c in choices)
        return -abs(first - 3) - 0.5 * abs(second - first)

    plan = stages([[CHEAP]] * 2, value, 1e9, samples=GRID)
    assert [c.samples for c in plan.choices] == [8, 8]
    changed = [t.choices for t in plan.trials]
    assert changed.index((StageChoice(0, 8), StageChoice(0, 1))) < changed.index((StageChoice(0, 8), StageChoice(0, 8)))


def test_of_equals_the_cheaper_plan_wins():
    plan = stages([[CHEAP, DEAR]] * 3, lambda _: 0.7, 1e9)
    assert plan.cost == 3 * 3
    assert plan.choices == (StageChoice(0, 1),) * 3


def test_a_tight_budget_takes_the_largest_from_the_dearest_stage_first():
    huge = StageModel("huge", 0, 100)
    plan = stages([[CHEAP, huge], [CHEAP, DEAR]], lambda _: 0.0, 20, max_trials=1)
    assert plan.choices == (StageChoice(0, 1), StageChoice(1, 1))
    assert plan.cost == 3 + 12


def test_the_budget_may_be_exactly_the_cheapest_pass():
    assert stages([[CHEAP, DEAR]] * 2, lambda _: 1.0, 6).cost == 6
    with pytest.raises(ConfigError, match=r"costs 6, the budget is 5\.9"):
        stages([[CHEAP, DEAR]] * 2, lambda _: 1.0, 5.9)


@pytest.mark.parametrize(
    ("options", "samples", "trials"),
    [([], GRID, 5), ([[]], GRID, 5), ([[CHEAP]], (), 5), ([[CHEAP]], (2, 4), 5), ([[CHEAP]], (1, 1), 5), ([[CHEAP]], GRID, 0)],
)  # fmt: skip
def test_what_cannot_be_searched_is_refused(options, samples, trials):
    with pytest.raises(ConfigError):
        stages(options, lambda _: 1.0, 100, samples=samples, max_trials=trials)
    with pytest.raises(DataError, match="nan"):
        stages([[CHEAP]], lambda _: float("nan"), 100)


def test_costs_are_flops_of_what_is_read_and_written():
    model = StageModel.in_flops("0.5b", 5e8, 100, 200)
    assert model.cost(3) == 2 * 5e8 * (100 + 3 * 200)


def test_the_papers_units():
    assert unit_budget(3e9, 1, 128, 64) == 1
    assert unit_budget(72e9, 1, 2048, 128) == 814
    assert unit_budget(70e9, 1, 256, 64) == pytest.approx(114.6667, abs=1e-4)
    assert unit_budget(5e8, 1, 128, 64) == pytest.approx(-1.5)
