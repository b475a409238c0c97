"""The disk that keeps webhooks while Redis takes none, and the way back to the stream."""
