"""The store of chunks at work: what it holds, what it saves, and ways out of it."""
