"""Learning from wrong labels and unbalanced classes, in JAX."""
