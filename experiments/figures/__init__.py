"""The papers' figures, drawn from run directories."""
