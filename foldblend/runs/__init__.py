"""The run folder on disk: the contract between all stages."""
