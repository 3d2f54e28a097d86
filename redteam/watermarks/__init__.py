"""The watermark bench: seen, found, traced, and beside other marks."""
