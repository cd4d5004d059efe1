"""What looks wrong with a data set before anything is trained on it."""
