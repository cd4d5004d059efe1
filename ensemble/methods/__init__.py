"""Methods of blending: votes, fitted weights, selection, stacking."""
