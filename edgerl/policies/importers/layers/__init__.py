"""Layer lists: bare weights become a network by a list of its layers."""
