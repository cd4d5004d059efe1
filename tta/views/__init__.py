"""Views of an image: their names, parameters and what they do to pixels."""
