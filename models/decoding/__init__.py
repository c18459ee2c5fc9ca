"""From a prefill to its answer: alone or beside others, over all rows or those that stay."""
