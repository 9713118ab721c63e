"""What a run is and leaves behind: its folder, checkpoints, figures, report, predictions."""
