"""From records to statistics: summaries, differences, overlaps."""
