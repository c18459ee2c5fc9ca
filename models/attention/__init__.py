"""Attention of scattered query rows over a whole prompt."""
