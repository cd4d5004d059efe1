"""Search of settings with Optuna: tune.py and fb.tune."""
