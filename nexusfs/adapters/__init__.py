"""Front ends: each converts, and defines nothing. The command line uses the mount's files alone."""
