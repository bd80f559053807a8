"""What the documentation starts from: scripts, a cfg file, a script for Slurm, and the experiments by name."""
