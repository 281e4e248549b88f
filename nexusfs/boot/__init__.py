"""Boot: the configuration, and the wiring of kernel, drivers and services into one system."""
