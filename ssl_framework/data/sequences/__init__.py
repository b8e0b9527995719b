"""Sources of sequences: what users have chosen, one item after another."""
