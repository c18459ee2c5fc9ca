"""Where weights and tokenizers come from."""
