"""The C core as Python sees it: thin classes, one for each C resource."""
