"""Strategies: one module a method family."""
