"""Who is held out when, and what the labels are: manifests, the label codec, splitters.

Nothing is imported here: command lines must answer before pandas and scikit-learn have loaded.
"""
