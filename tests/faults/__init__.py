"""What is done to a service, and that nothing acknowledged is lost, nothing repeated and nothing leaked by it."""
