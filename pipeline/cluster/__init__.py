"""Commands on the nodes of a Ray cluster: settings, folds, views and predictions."""
