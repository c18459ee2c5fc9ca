"""Stage 3: inputs and KVs become outputs/<model>/<dataset>/<run>/."""
