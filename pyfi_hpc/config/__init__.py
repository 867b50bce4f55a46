"""Settings: what they are (`sections`), where they come from (`sources`), and how one is stored (`writing`)."""

from pyfi_hpc.config.sections import Agent, Broker, Client, Database, Git, Paths, Retention, Slurm
from pyfi_hpc.config.settings import Settings
from pyfi_hpc.config.sources import user_file
from pyfi_hpc.config.writing import set_value

__all__ = [
    "Agent",
    "Broker",
    "Client",
    "Database",
    "Git",
    "Paths",
    "Retention",
    "Settings",
    "Slurm",
    "set_value",
    "user_file",
]
