"""The control plane over Cap'n Proto. Only this folder imports capnp."""
