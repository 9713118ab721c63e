"""The configuration: its fields and checks, the recipes of `configs/`, the command line."""
