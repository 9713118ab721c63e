"""Several methods or variants under one budget, in one table."""
