"""The durable window table."""
