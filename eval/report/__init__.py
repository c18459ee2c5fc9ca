"""What people look at: tables, curves, heatmaps."""
