"""One fold trained, and several at once."""
