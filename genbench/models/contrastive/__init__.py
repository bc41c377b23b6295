"""Contrastive representation learning: matching pairs against all other pairs of a batch."""
