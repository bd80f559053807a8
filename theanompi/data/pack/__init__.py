"""``tmpack``: makes a data set of images that lie in folders, archives or arrays."""
