"""Metering, planning and running: from a config to journal lines."""
