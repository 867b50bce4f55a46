"""Real services in private directories and on private ports, without a service manager."""
