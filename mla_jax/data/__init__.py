"""Turns a split into batches on the devices."""
