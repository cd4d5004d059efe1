"""From files to batches: cache, crop, augmentation, sampling."""
