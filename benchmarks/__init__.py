"""`bake` measured beside Packer and a bare loop over ssh, on one local cloud. See `__main__`."""
