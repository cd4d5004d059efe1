"""The ground that every package stands on: errors, files, scores and run folders."""
