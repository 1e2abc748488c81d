"""The roles as processes of their own, on Redis, Kafka and Cassandra. ``embedded`` is the same in one process."""
