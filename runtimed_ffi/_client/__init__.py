"""Storey 6 (client): what `Session` and `DaemonClient` are made of. Stands on `_binding`; private."""
