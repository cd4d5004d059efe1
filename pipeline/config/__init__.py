"""Settings of a run: dataclasses, files, the command line. No torch here."""
