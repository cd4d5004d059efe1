"""Progress of a run, logging backends, and runs that outlive their terminal."""
