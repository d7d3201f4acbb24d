"""django-storages' S3 for a process with many greenlets: one client, and one part of a file in memory."""

import threading
from typing import Any

from boto3.s3.transfer import TransferConfig
from storages.backends.s3 import S3Storage

_lock = threading.Lock()


class SharedS3Storage(S3Storage):
    """Shares one client: a client costs as much as many uploads, and the original makes one for each greenlet."""

    _shared: Any = None

    def __init__(self, **settings: Any) -> None:
        super().__init__(transfer_config=TransferConfig(use_threads=False), **settings)

    @property
    def connection(self) -> Any:
        with _lock:
            if self._shared is None:
                self._shared = self._create_session().resource(
                    "s3",
                    region_name=self.region_name,
                    use_ssl=self.use_ssl,
                    endpoint_url=self.endpoint_url,
                    config=self.client_config,
                    verify=self.verify,
                )
        return self._shared
