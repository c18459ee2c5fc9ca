"""The chunk store measured: by disk, by size, and whether it pays."""
