"""What Theano-MPI's models and loops import from here: its recorder, and how it saves weights."""
