"""Services shared by gateway and router; independent of every role."""
