"""Where the channel meets HTTP: Litestar handlers' helpers, the two stream transports, polling, and the server."""
