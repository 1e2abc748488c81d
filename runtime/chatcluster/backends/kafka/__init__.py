"""The log on Kafka: appends, consumer groups, reading back, and its topics."""

from chatcluster.backends.kafka.consumer import KafkaConsumer
from chatcluster.backends.kafka.log import KafkaLog
from chatcluster.backends.kafka.reader import KafkaLogReader
from chatcluster.backends.kafka.settings import KafkaSettings
from chatcluster.backends.kafka.topics import KafkaPlaces, check_topics, create_topics, facts

__all__ = [
    "KafkaConsumer",
    "KafkaLog",
    "KafkaLogReader",
    "KafkaPlaces",
    "KafkaSettings",
    "check_topics",
    "create_topics",
    "facts",
]
