"""The wire: payloads, the outbox, the session with the broker."""
