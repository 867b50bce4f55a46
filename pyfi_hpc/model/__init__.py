"""Records, statuses and the rules about them: no I/O here."""
