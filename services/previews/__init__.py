"""Previews: generated programs, started for a person to try, with their output as a live terminal."""
