"""asyncio, no web framework: the log of events and the channel that follows it."""
