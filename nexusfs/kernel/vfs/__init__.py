"""The virtual filesystem: path walks, mounts, open files, kernfs, and news of changes."""
