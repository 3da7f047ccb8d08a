"""Tasks: long pieces of work with a current state, told as snapshots of which the newest matters."""
