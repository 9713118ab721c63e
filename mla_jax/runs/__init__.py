"""A run and its output: its folder, checkpoints, figures, report and predictions."""
