"""The way in to a program: requests and WebSockets handed through to its unix socket, and its answers handed back."""
