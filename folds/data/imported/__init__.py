"""Import of predictions that another library made, as a run folder."""
