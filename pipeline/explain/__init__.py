"""Maps of where a model looked: which parts of an image raised the score of a class."""
