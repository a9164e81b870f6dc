"""From images and labels to a model: configuration, data, losses, training (floor 3)."""
