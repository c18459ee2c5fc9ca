"""Speed measurements that anyone can repeat."""
