"""Run folders on disk: reading, writing and checks; all stages exchange data through them."""
