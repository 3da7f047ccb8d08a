"""The soak: many readers coming and going, three busy services, faults by chance, and what must hold all the while."""
