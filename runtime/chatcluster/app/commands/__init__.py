"""Commands of ``chatcluster``: one module each, a click command named ``command``."""
