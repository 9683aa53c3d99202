"""Speed, beside the rivals, in one process."""
