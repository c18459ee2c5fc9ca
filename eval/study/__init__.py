"""The study: our own method against the published ones, as docs/protocol.md has it."""
