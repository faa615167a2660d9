"""From journals to tables, pictures and the report."""
