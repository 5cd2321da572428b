"""The command line: it parses, calls one function and prints. Nothing heavy is imported before the command is known."""
