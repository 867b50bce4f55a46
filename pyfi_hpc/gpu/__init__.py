"""GPUs as NVIDIA's driver sees them from here: what there is, how it is used, how a worker is confined to its own."""
