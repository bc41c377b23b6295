"""Autoencoders: deterministic codes of data, including principal components."""
