"""The stages of a run: pure functions, arrays in, arrays out (floor 2). No stage imports another."""
