"""Export of a finished run, TTA'd run or blend as one file."""
