"""Stage 2: inputs become kvs/<model>/<dataset>/item_<id>/{kvs.pt, surprisal.pt, sinks.pt}."""
