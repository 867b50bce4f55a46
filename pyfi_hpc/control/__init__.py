"""The control plane: what is wanted, compared with what is. `placement` decides, `reconcile` reads and writes rows."""
