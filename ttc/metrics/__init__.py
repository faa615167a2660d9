"""The field's metrics and their uncertainty: pure functions on numpy arrays."""
