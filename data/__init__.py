"""Where raw rows come from, and how a row becomes token segments."""
