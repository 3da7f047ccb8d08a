"""What every log, and the channel over it, must keep to."""
