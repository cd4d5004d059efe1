"""Test-time augmentation: predictions from several views of the same image."""

# Importing foldblend makes the other packages, and modules under their former names, importable.
import foldblend  # noqa: F401
