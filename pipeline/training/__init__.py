"""Training of one fold, and of several folds at once."""
