"""Predictors of what tokens cost and buy."""
