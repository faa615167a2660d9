"""The built-in predictors, by their public import path: `from ttc.predictors import BudgetPredictor`."""

from ttc_predictors.budget import BudgetPredictor

__all__ = ["BudgetPredictor"]
