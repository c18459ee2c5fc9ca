"""The chunk store from outside: what it holds, whether it is whole, and what of it may go."""
