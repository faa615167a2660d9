"""Conformance suites for authors of strategies, engines and allocators."""
