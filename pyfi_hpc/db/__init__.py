"""The control plane's database: tables, migrations, guards, and the few classes that talk SQL."""
