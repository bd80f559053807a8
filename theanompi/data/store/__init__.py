"""A data set in HDF5: its schema, written and read."""
