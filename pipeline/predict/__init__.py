"""Prediction of new images with the models of a finished run, TTA'd run, blend or export."""
