"""Planning: from a data set and a time limit to many runs and their blend."""
