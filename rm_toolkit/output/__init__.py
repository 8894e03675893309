"""What every command writes, and how: one writer for one output."""
