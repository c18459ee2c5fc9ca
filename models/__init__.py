"""The engine: load a model, capture KVs, rotate, select, fuse, attend, decode."""
