"""How XLA and the C library are set up on this machine's CPU."""
