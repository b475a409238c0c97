"""What only commands, `doctor` and the purge use: inspecting servers and keys, deleting."""
