"""What forge runs itself inside a sandbox: the functions that `Call` steps name. Unaware of rules and the store."""
