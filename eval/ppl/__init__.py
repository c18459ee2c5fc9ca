"""Perplexity after eviction: a context compressed once, and what follows it scored."""
