"""The commands. Each file reads its arguments and calls one function of fdcore."""
