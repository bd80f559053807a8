"""What a run leaves: its folder, log, curves, timeline and checkpoint."""
