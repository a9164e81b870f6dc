"""Model cards, the zoo, architectures and runtimes (floor 3)."""
