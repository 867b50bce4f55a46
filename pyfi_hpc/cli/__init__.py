"""The command line: each command parses, calls one method and prints; results to stdout, everything else to stderr."""
