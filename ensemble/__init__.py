"""Many runs' logits -> one prediction, honestly scored. Never imports torch."""
