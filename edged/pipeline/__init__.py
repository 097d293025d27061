"""The life of a frame: capture threads, the inference thread, the publisher thread.

They meet only in the mailbox (newest frame wins) and the queue of inferences, both bounded.
"""
