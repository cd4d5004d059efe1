"""Work on the nodes of a Ray cluster: connection, checks of the nodes, and calls of functions."""
