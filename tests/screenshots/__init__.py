"""Pictures of the pages, of a real service with real data: `make screenshots`."""
