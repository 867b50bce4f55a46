"""Slurm: turns a resource request into an allocation, and gives it back."""
