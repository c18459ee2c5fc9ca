"""Chunk files by key: put once, verified, anywhere. Nothing here knows of prompts or models."""
