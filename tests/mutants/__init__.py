"""A mutation run: the code is broken in every small way, and each time a test has to notice."""
