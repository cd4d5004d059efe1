"""More views of the same picture for better logits."""
