"""Split one token budget over problems: pure functions of curves and costs."""
