"""Linear layers on a CPU, by the fastest path of the machine at hand."""
