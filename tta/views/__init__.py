"""Views of an image: their names, parameters and effects on pixels."""
