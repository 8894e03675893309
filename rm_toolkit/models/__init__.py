"""Models on the disk and in memory."""
