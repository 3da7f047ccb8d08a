"""What the command `tailrace` does as a client of a Tailrace that runs elsewhere."""
