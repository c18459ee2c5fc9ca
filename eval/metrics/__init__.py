"""Task scores as the benchmarks define them."""
