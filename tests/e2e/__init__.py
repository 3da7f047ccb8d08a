"""What people and programs outside do with Tailrace, from one end to the other."""
