"""The roof: the command, doctor and the public API. Nothing imports it."""
