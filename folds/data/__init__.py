"""Readers of data sets: from files to a checked table of images, groups and labels."""
