"""The processor's code: which repositories may be used, one commit of it, and the environment that runs it."""
