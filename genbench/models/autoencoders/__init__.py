"""Autoencoders: deterministic codes of data, from principal components on."""
