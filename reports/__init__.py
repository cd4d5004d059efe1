"""What a person reads: scores with intervals, in text and JSON. A leaf: takes arrays and tables only."""
