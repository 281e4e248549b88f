"""Services beside the kernel: the agent's program, models, tools. Each may fail at boot alone."""
