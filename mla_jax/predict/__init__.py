"""Predicts with a trained run on new examples."""
