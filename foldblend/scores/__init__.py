"""Scores, confidence intervals and calibration, as pure functions of arrays."""
