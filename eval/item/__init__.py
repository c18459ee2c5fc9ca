"""One item on its way: the full prefill, a method's answer, and what becomes of both."""
