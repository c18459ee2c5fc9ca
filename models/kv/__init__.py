"""Keys and values: captured, stored, transferred, rotated, cached."""
