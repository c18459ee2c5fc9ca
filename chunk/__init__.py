"""Stage 1: raw rows become inputs/<model>/<dataset>-<key>.jsonl."""
