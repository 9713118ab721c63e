"""Predicts with a trained run on new examples: what is read, and what is written."""
