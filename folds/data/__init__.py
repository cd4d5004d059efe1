"""From files on disk to one checked table of images, groups and labels."""
