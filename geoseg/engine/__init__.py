"""What a run is: its order, its store, its executors (floor 4)."""
