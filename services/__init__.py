"""The three services (tasks, runs, previews) and the command that starts them."""
