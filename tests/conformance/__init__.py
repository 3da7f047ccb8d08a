"""One table of what clients may rely on, held against every way there is to ask."""
