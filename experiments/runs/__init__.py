"""A run directory: claiming, records, progress, environment, results table, restoring."""
