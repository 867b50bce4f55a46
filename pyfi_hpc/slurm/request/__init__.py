"""What a pilot asks of Slurm: its options, their values and where they come from, what is checked, and its script."""
