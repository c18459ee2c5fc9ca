"""Where raw rows come from: one file (or folder) a source."""
