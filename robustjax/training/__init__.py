"""Training any method: engine, parallelism, schedules, checkpoints, evaluation, logging."""
