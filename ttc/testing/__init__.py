"""For tests: a conformance suite for authors of strategies, servers and runs that break, a predictor that is told."""
