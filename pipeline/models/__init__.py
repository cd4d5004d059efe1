"""Models: backbones, their weights and their heads."""
