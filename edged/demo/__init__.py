"""`scripts/demo`: what edged does, seen by a subscriber, with no set-up."""
