"""The GPU by itself: what its kernels get right, how fast they are, and what makes them faster."""
