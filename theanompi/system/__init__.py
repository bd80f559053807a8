"""What the operating system says and does: cores, processes, shared memory, standard streams."""
