"""Labels that models of a finished run give: a teacher's probabilities, and pseudo-labels."""
