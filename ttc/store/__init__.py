"""Run folders, journals, tables and banks on disk."""
