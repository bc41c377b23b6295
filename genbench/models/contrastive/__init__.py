"""Representation learners by contrast: pairs that belong together among others that do not."""
