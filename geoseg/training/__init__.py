"""Training data, losses and the training loop (floor 3)."""
