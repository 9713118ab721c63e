"""The configuration: fields and checks, files, recipes, and the command line."""
