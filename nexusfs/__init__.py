"""NexusFS: an agent kernel that is mounted as a filesystem."""
