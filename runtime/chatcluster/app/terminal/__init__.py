"""The terminal client behind ``chatcluster chat``: a model of the talk, a screen for it, and plain lines for pipes."""
