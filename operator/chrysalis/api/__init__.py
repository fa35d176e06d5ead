"""The custom resources: their models, names and generated definitions.  Imports only errors, clock and amounts."""
