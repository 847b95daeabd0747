"""How a command ends; what a ZooError ends with stands at the error."""

INTERRUPTED, TERMINATED = 130, 143
FAULT_FOUND = 3
