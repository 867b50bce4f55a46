"""The terminal screen, one file a screen."""
