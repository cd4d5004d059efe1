"""Scores, intervals and calibration, as pure functions on arrays."""
