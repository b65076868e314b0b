"""Pretrained models, one file for each package: the sole importers of those packages."""
