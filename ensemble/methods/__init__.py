"""Methods of blending: votes, fitted weights, greedy selection, stacking."""
