"""The persister: from the log to the store (delivery.md section 4)."""

from chatcluster.services.persister.service import PersisterService
from chatcluster.services.persister.settings import PersisterSettings

__all__ = ["PersisterService", "PersisterSettings"]
