"""Settings of a run: dataclasses, YAML files and the command line. Imports no torch."""
